"""Files that tenants keep here, and batches of requests that are run from them."""
