//! Deployment: manifests, files, versions, migrations, reload.

pub mod manifest;
