"""What stands behind the web page: what may be asked (`asking`), the work (`work`) and who is let in (`gate`)."""
