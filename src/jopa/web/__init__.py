"""The web page: who is let in (`access`), what may be requested (`requests`, `body`), the jobs that wait for the model
(`jobs`), the work and its events (`service`), and the server that joins them (`server`, `connections`)."""
