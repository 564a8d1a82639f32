//! Init's settings, which spawn gives it as its command line: that is made and read by the same program.

use std::os::fd::RawFd;

use quilt_record::confine::{CapSet, Confine, Rlimit, Rules};

/// What init is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The pipe on which it says that it is ready.
    pub ready: RawFd,
    /// The file that gets the exit status.
    pub exit: RawFd,
    /// The two parts of the log, the newer and the older, and its cap in bytes.
    pub log: Option<(RawFd, RawFd, u64)>,
    /// It is not process 1, and asks to be given the orphans (PR_SET_CHILD_SUBREAPER(2const)).
    pub subreaper: bool,
    /// Whom the command runs as, and what it is held to; the filter it has from init.
    pub confine: Confine,
    /// The command's directory, absolute.
    pub workdir: Option<String>,
    /// The command; empty to idle.
    pub command: Vec<String>,
}

/// What init needs to start a command and to pass signals on to it, by their numbers in linux/capability.h: CHOWN, KILL,
/// SETGID, SETUID, SETPCAP.
const STARTING: CapSet = CapSet(1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8);

/// KILL: what is left of that.
const FORWARDING: CapSet = CapSet(1 << 5);

/// As many files as init needs, and some.
const FILES: u64 = 64;

impl Settings {
    /// What init itself is held to, of what the container is: its commands get the resource limits, it must not run out of
    /// files or time; and it may have to become another user.
    pub fn own_rules(rules: &Rules, command: &[String]) -> Rules {
        let extra = if command.is_empty() { CapSet(0) } else { STARTING };
        // Hard limits can only be lowered from here on, which is for the command to do: init keeps the most there is. Of files
        // there is a most that has a number, and no hard limit is above it (fs.nr_open).
        let none = Rlimit { name: "core".to_owned(), soft: Some(0), hard: None };
        let files = rules.rlimits.iter().filter(|limit| limit.name == "nofile" && limit.hard >= Some(FILES)).cloned();
        let rlimits = files.chain([none]).collect();
        Rules { rlimits, capabilities: rules.capabilities.with(extra), ..rules.clone() }
    }

    /// The capabilities that init keeps once its command runs.
    pub fn kept(&self) -> CapSet {
        let extra = if self.confine.uid == 0 { CapSet(0) } else { FORWARDING };
        self.confine.rules.capabilities.with(extra)
    }

    /// The command line.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec!["quilt-init".to_owned()];
        let mut option = |name: &str, value: String| argv.push(format!("--{name}={value}"));
        option("ready", self.ready.to_string());
        option("exit", self.exit.to_string());
        if let Some((log, older, size)) = self.log {
            option("log", format!("{log},{older},{size}"));
        }
        if self.subreaper {
            option("subreaper", "1".to_owned());
        }
        if self.command.is_empty() {
            return argv;
        }
        let Confine { uid, gid, groups, rules, filter: _ } = &self.confine;
        let ids = [*uid, *gid].iter().chain(groups).map(u32::to_string).collect::<Vec<_>>();
        option("ids", ids.join(","));
        if *rules != Rules::default() {
            option("rules", serde_json::to_string(rules).unwrap_or_default());
        }
        if let Some(dir) = &self.workdir {
            option("workdir", dir.clone());
        }
        argv.push("--".to_owned());
        argv.extend(self.command.iter().cloned());
        argv
    }

    /// Reads the command line back, without the program's name.
    pub fn parse(mut argv: impl Iterator<Item = String>) -> Option<Settings> {
        fn numbers<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
            text.split(',').map(|n| n.parse().ok()).collect()
        }
        let mut settings = Settings { ready: -1, exit: -1, ..Settings::default() };
        while let Some(word) = argv.next() {
            if word == "--" {
                settings.command = argv.collect();
                break;
            }
            let (name, value) = word.strip_prefix("--")?.split_once('=')?;
            match name {
                "ready" => settings.ready = value.parse().ok()?,
                "exit" => settings.exit = value.parse().ok()?,
                "log" => match numbers::<u64>(value)?[..] {
                    [log, older, size] => settings.log = Some((log as RawFd, older as RawFd, size)),
                    _ => return None,
                },
                "subreaper" => settings.subreaper = true,
                "ids" => match numbers::<u32>(value)?[..] {
                    [uid, gid, ref groups @ ..] => {
                        (settings.confine.uid, settings.confine.gid) = (uid, gid);
                        settings.confine.groups = groups.to_vec();
                    }
                    _ => return None,
                },
                "rules" => settings.confine.rules = serde_json::from_str(value).ok()?,
                "workdir" => settings.workdir = Some(value.to_owned()),
                _ => return None,
            }
        }
        (settings.ready >= 0 && settings.exit >= 0).then_some(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_comes_back_as_it_was() {
        let idle = Settings { ready: 5, exit: 6, ..Settings::default() };
        let busy = Settings {
            log: Some((7, 8, 65536)),
            subreaper: true,
            confine: Confine {
                rules: Rules { no_new_privs: false, ..Rules::default() },
                ..Confine { uid: 1, gid: 2, groups: vec![3, 4], ..Confine::default() }
            },
            workdir: Some("/a=b c".to_owned()),
            command: ["--", "-x", ""].map(str::to_owned).to_vec(),
            ..idle.clone()
        };
        for settings in [idle, busy] {
            assert_eq!(Settings::parse(settings.argv().into_iter().skip(1)), Some(settings));
        }
        for bad in [vec![], vec!["--ready=1"], vec!["x"], vec!["--ready=1", "--exit=2", "--y=1"]] {
            assert_eq!(Settings::parse(bad.into_iter().map(str::to_owned)), None);
        }
    }
}
