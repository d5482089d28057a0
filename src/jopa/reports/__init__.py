"""What people read: terminal, HTML, tables, figures and the gallery.

Never runs a model.
"""
