//! What is asked of spawn: the settings of a container's process.

use std::path::Path;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use quilt_record::units::{Size, Span};
use quilt_record::{Code, Error};

use crate::extra::{self, Extra};
use crate::rules;
use crate::sysctl::Sysctl;
use crate::volume;

/// `spawn.want`, and its options on the command line.
#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// Set an environment variable for the container's commands; NAME alone takes the caller's value; repeatable
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]", help_heading = "Process")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,

    /// Run commands as this user: name or number of the container's own /etc/passwd and /etc/group [default: root]
    #[arg(long, short = 'u', value_name = "USER[:GROUP]", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,

    /// Run commands in this directory, which is made if it is not there [default: /]
    #[arg(long, short = 'w', value_name = "DIR", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,

    /// Process ids of its own, or the host's (for debugging; lets the container see and kill the host's processes)
    /// [default: private]
    #[arg(long, value_enum, value_name = "private|host", hide_possible_values = true, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,

    /// Keep at most this much of the output of CMD, the newest, from 64KiB [default: 16MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_size: Option<Size>,

    /// How long `stop` waits after SIGTERM before it kills [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Span>,

    /// Give the container's processes a capability beside the eleven of the default: NET_RAW, SYS_PTRACE…; ALL [default: none]
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_add: Vec<String>,

    /// Take a capability of the default away: SETUID, CHOWN…; ALL [default: none]
    #[arg(long, value_name = "CAPABILITY", help_heading = "Security")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cap_drop: Vec<String>,

    /// No protection at all: all capabilities, devices and system calls, nothing masked or read-only
    #[arg(long, help_heading = "Security")]
    #[serde(skip_serializing_if = "is_false")]
    pub privileged: bool,

    /// The system calls that are allowed: a profile in docker's JSON format, or `off` [default: Quilt's own]
    #[arg(long, value_name = "FILE|off", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<String>,

    /// Allow system calls by the 32-bit entry points of the machine as well (i386 and x32, or 32-bit Arm)
    #[arg(long, help_heading = "Security")]
    #[serde(skip_serializing_if = "is_false")]
    pub abi32: bool,

    /// Whether setuid programs and file capabilities grant nothing (no_new_privs); `off` for images with sudo [default: on]
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true, help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_new_privs: Option<Switch>,

    /// A resource limit of every process, soft and hard: nofile=1024:4096, core=0, nproc=max… (getrlimit(2)) [default: core=0]
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Security")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ulimit: Vec<String>,

    /// Set a kernel parameter of the container's own namespaces: net.core.somaxconn=1024, kernel.shmmax=…, fs.mqueue.…
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sysctl: Vec<String>,

    /// Make the image read-only; /dev/shm, volumes and --tmpfs stay writable
    #[arg(long, help_heading = "Mounts")]
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,

    /// An empty file system in memory at DIR: /tmp, /run:size=64M,mode=755 [default: size=50% of memory, mode=1777]
    #[arg(long, value_name = "DIR[:OPTIONS]", help_heading = "Mounts")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<String>,

    /// Show a directory or file of the host at DST, an absolute path inside; `:ro` to protect it
    #[arg(long, value_name = "SRC:DST[:ro]", help_heading = "Mounts")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume: Vec<String>,

    /// The size of /dev/shm [default: 64MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Mounts")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<Size>,

    /// Run this as the container's main process, which ends the container when it ends [default: none; stay idle]
    #[arg(last = true, value_name = "CMD", help_heading = "Process")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is so.
    #[default]
    On,
    /// It is not.
    Off,
}

fn is_false(switch: &bool) -> bool {
    !switch
}

/// Which process ids the container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pid {
    /// A pid namespace of its own: init is 1, nothing else is seen.
    #[default]
    Private,
    /// The host's: its processes are seen, with their command lines. Takes a user namespace, or `kill -9 -1` would reach them.
    Host,
}

/// The least that /dev/shm has, a page: nothing at all would be without a limit.
const SHM_MIN: u64 = 4 << 10;

/// The least that a log is capped at: two halves of a pipe's worth each.
const LOG_MIN: u64 = 64 << 10;

impl Want {
    /// The default of `stop_timeout`.
    pub const STOP_TIMEOUT: Span = Span(std::time::Duration::from_secs(10));

    /// The cap of the log in bytes.
    pub fn log_size(&self) -> u64 {
        self.log_size.map_or(16 << 20, |size| size.0)
    }

    /// How long `stop` waits.
    pub fn stop_timeout(&self) -> Span {
        self.stop_timeout.unwrap_or(Want::STOP_TIMEOUT)
    }

    /// Gives every variable that was asked by name alone the caller's value; one that the caller does not have is
    /// dropped. Only where the request is made: a record holds values.
    pub fn take_env(&mut self, caller: impl Fn(&str) -> Option<String>) {
        let given = std::mem::take(&mut self.env);
        self.env = given
            .into_iter()
            .filter_map(|entry| match entry.contains('=') {
                true => Some(entry),
                false => caller(&entry).map(|value| format!("{entry}={value}")),
            })
            .collect();
    }

    /// Reads the profile that `--seccomp` names, where the request is made: a record holds the profile itself, so that a
    /// container can be started when the file is gone.
    pub fn take_seccomp(&mut self) -> Result<(), Error> {
        self.seccomp = match self.seccomp.take().as_deref() {
            None | Some("default") => None,
            Some("off") => Some("off".to_owned()),
            Some(path) => Some(rules::read_profile(Path::new(path))?),
        };
        Ok(())
    }

    /// Gives the volumes' relative sources the caller's directory. Only where the request is made: a record holds absolute
    /// ones.
    pub fn take_dir(&mut self, caller: impl FnOnce() -> std::io::Result<std::path::PathBuf>) -> std::io::Result<()> {
        if self.volume.is_empty() {
            return Ok(());
        }
        let dir = caller()?;
        self.volume.iter_mut().for_each(|text| *text = volume::absolute(text, &dir));
        Ok(())
    }

    /// The mounts that are asked for, in their order.
    pub(crate) fn extras(&self) -> Result<Vec<Extra>, Error> {
        extra::all(self)
    }

    /// The parameters of the kernel that are asked for.
    pub(crate) fn sysctls(&self) -> Result<Vec<Sysctl>, Error> {
        self.sysctl.iter().map(|text| Sysctl::parse(text).map_err(|why| rules::invalid("sysctl", why))).collect()
    }

    /// Checks what is wrong on the host's network only: the parameters of it that would be set.
    pub fn check_with_hosts_network(&self) -> Result<(), Error> {
        match self.sysctls()?.iter().find(|sysctl| sysctl.is_net()) {
            None => Ok(()),
            Some(Sysctl { name, .. }) => {
                Err(rules::invalid("sysctl", format!("with --network host, {name} would be the host's")))
            }
        }
    }

    /// Checks what the types do not.
    pub fn check(&self) -> Result<(), Error> {
        let bad = |what: String| Err(Error::new(Code::Invalid, "read what is asked of spawn", what));
        for entry in &self.env {
            match entry.split_once('=') {
                Some((name, _)) if !name.is_empty() && !entry.contains('\0') => {}
                _ => return bad(format!("env: `{entry}` is not NAME=VALUE")),
            }
        }
        if let Some(dir) = self.workdir.as_deref().filter(|dir| !dir.starts_with('/') || dir.contains('\0')) {
            return bad(format!("workdir: `{dir}` is not an absolute path"));
        }
        if self.command.iter().any(|word| word.contains('\0')) || self.command.first().is_some_and(String::is_empty) {
            return bad("command: an empty name, or a NUL in it".to_owned());
        }
        rules::check(self)?;
        if self.log_size() < LOG_MIN {
            return bad(format!("log_size: the least is {}", Size(LOG_MIN)));
        }
        if self.shm_size.is_some_and(|size| size.0 < SHM_MIN) {
            return Err(rules::invalid("shm-size", format!("the least is {}", Size(SHM_MIN))));
        }
        self.extras()?;
        self.sysctls()?;
        Ok(())
    }

    /// The environment of the container's commands: a fixed few, under what was asked.
    pub fn environment(&self, home: &str, hostname: &str) -> Vec<String> {
        let mut env = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            format!("HOME={home}"),
            "TERM=xterm".to_owned(),
            format!("HOSTNAME={hostname}"),
        ];
        for entry in &self.env {
            let name = entry.split_inclusive('=').next().unwrap_or(entry);
            match env.iter_mut().find(|old| old.starts_with(name)) {
                Some(old) => old.clone_from(entry),
                None => env.push(entry.clone()),
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(env: &[&str]) -> Want {
        Want { env: env.iter().map(|e| (*e).to_owned()).collect(), ..Want::default() }
    }

    #[test]
    fn what_is_asked_goes_over_the_fixed_few() {
        let env = with_env(&["A=1", "HOME=/x", "A=2=3", "PATHX=1"]).environment("/root", "web");
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        assert_eq!(env, [path, "HOME=/x", "TERM=xterm", "HOSTNAME=web", "A=2=3", "PATHX=1"]);
    }

    #[test]
    fn a_name_alone_takes_the_callers_value() {
        let mut want = with_env(&["A", "B=1", "C"]);
        want.take_env(|name| (name == "A").then(|| "x".to_owned()));
        assert_eq!(want.env, ["A=x", "B=1"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for env in ["A", "=1", "A=\0"] {
            assert!(with_env(&[env]).check().is_err(), "{env:?}");
        }
        assert!(Want { workdir: Some("tmp".into()), ..Want::default() }.check().is_err());
        assert!(Want { command: vec![String::new()], ..Want::default() }.check().is_err());
        assert!(Want { log_size: Some(Size(1)), ..Want::default() }.check().is_err());
        assert!(Want::default().check().is_ok());
    }
}
