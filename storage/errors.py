"""What storage refuses to do. Every message is one sentence that names the object, the bound and the way out."""


class StorageError(Exception):
    """Base of everything that storage raises on purpose. The message is fit to be shown to a person."""


class BadKey(StorageError, ValueError):
    """A name that cannot be an object, a sample, a field, an identity or a URI here."""


class NotFound(StorageError):
    """The object does not exist."""


class Conflict(StorageError):
    """The name is taken by other bytes. Committed objects are never replaced."""


class StoreUnavailable(StorageError):
    """The store cannot be reached, or refuses this client (credentials, bucket, permissions, persistent faults)."""


class StoreFull(StoreUnavailable):
    """The disk (or its quota) has no room for the bytes."""


class ObjectCorrupt(StorageError):
    """The bytes read are not the bytes that were committed."""


class ShardCorrupt(ObjectCorrupt):
    """A shard is not the one its manifest describes, or its tar holds what a shard may not hold."""


class ManifestCorrupt(ObjectCorrupt):
    """A manifest or status file that cannot be understood: damaged, or written by a newer version."""


class CheckpointCorrupt(ObjectCorrupt):
    """A checkpoint whose files are damaged or hold numbers that are not finite."""


class Tombstoned(StorageError):
    """The identity was erased; nothing may be stored under it again."""
