"""The same run in shards: through processes or on Ray, resumed after anything."""
