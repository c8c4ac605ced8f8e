"""Who asks, how much they may, and the record of it: API keys, limits, and the audit log.

Where to look: `key_ring` (authenticate), `local_limits` and `shared_limits` (admit, settle), `audit_log` (append),
`verify` (audit). `folder` says where keys and files are, `database` opens the database they share.
"""
