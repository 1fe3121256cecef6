"""The embedded models' networks: `view_transformer` is the trunk all of them share."""
