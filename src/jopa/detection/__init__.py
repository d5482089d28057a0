"""How hostile a prompt looks, by how a model reacts to it.

`hostility` judges one prompt, `screening` many.
"""
