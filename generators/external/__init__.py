"""Published weights behind the interfaces of `generators.priors`; `loading.open_external` is the way in."""
