//! OpenVPN's status file (`status`, `status-version`), for the tools that read it.
