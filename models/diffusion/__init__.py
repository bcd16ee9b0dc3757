"""Condition maps and an identity → pictures.

config = tiny_config()                                          presets.py
model = InstaFace.from_config(config, seed=0)                   editor.py
conditions = fuse(codec, maps, config.maps)                     fusion.py     (B, 3C, h, w)
tokens = model.tokens(semantic, face)                           identity.py   (B, N, W)

draws = draws_for(config, keys, run_seed=0, epoch=0)            what chance decides, by sample key
loss = model({"moments": …, "conditions": …, "semantic": …, "face": …}, draws)

parameters = adapt(model, AdaptationConfig(), semantic=…, face=…)   adaptation.py: stage 2
loss = model(one_photograph, draws_for(config, [key], …, copies=8))  guidance once, noise eight times

images = sample(model, codec, conditions, tokens, keys=[key] * B)    sampling.py
"""
