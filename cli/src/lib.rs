//! trunnion, the host tool.
