//! The fields of a profile, docker's and podman's and the OCI runtime's. `null` is as good as absent.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    pub(super) default_action: String,
    pub(super) default_errno_ret: Option<u16>,
    pub(super) default_errno: Option<String>,
    pub(super) architectures: Option<Vec<String>>,
    pub(super) arch_map: Option<Vec<ArchMap>>,
    pub(super) flags: Option<Vec<String>>,
    pub(super) listener_path: Option<String>,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<String>,
    pub(super) syscalls: Option<Vec<Syscall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ArchMap {
    pub(super) architecture: String,
    pub(super) sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Syscall {
    pub(super) name: Option<String>,
    pub(super) names: Option<Vec<String>>,
    pub(super) action: String,
    pub(super) errno_ret: Option<u16>,
    pub(super) errno: Option<String>,
    pub(super) args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    pub(super) includes: Option<Filter>,
    pub(super) excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Arg {
    pub(super) index: u8,
    pub(super) value: u64,
    pub(super) value_two: Option<u64>,
    pub(super) op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    pub(super) caps: Option<Vec<String>>,
    pub(super) arches: Option<Vec<String>>,
    pub(super) min_kernel: Option<String>,
}
