"""Models behind servers: vLLM and SGLang, asked with token ids for the log-probabilities of an output.

No model runs in this process; a `RemoteModel` keeps the promises of `jopa.scoring.protocols.Model`.
"""
