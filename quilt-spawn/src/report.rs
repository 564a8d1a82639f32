//! What the child tells its maker through the pipe between them, one line each, until it is ready or has failed. The
//! line `ready` is init's own, so that its end without one is never taken for a start.

use std::os::fd::AsFd;

use nix::unistd::write;

use quilt_record::confine::User;
use quilt_record::{Code, Error};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A namespace that the container has to itself, and its inode number.
    Namespace(String, u64),
    /// The container's user.
    User(User),
    /// Init runs, and CMD, if there is one, was started.
    Ready,
    /// It ends here.
    Failed(Error),
}

impl Line {
    /// Sends the line, whole: it is shorter than PIPE_BUF, or there is one writer (pipe(7)).
    pub fn send(&self, pipe: impl AsFd) -> nix::Result<()> {
        write(pipe, self.text().as_bytes()).map(drop)
    }

    /// Sends several at once: every write wakes the reader.
    pub fn send_all(lines: &[Line], pipe: impl AsFd) -> nix::Result<()> {
        write(pipe, lines.iter().map(Line::text).collect::<String>().as_bytes()).map(drop)
    }

    fn text(&self) -> String {
        let plain = |text: &str| text.replace(['\t', '\n'], " ").chars().take(1000).collect::<String>();
        match self {
            Line::Namespace(name, inode) => format!("namespace\t{name}\t{inode}\n"),
            Line::User(User { uid, gid, groups, home }) => {
                let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
                format!("user\t{uid}\t{gid}\t{}\t{}\n", groups.join(","), plain(home))
            }
            Line::Ready => "ready\n".to_owned(),
            Line::Failed(Error { code, step, errno, message }) => {
                let (step, message) = (plain(step), plain(message));
                format!("failed\t{}\t{}\t{step}\t{message}\n", code.as_str(), errno.unwrap_or(0))
            }
        }
    }

    /// Reads a line back, without its line feed.
    pub fn parse(text: &str) -> Option<Line> {
        let fields: Vec<&str> = text.split('\t').collect();
        Some(match fields[..] {
            ["namespace", name, inode] => Line::Namespace(name.to_owned(), inode.parse().ok()?),
            ["user", uid, gid, groups, home] => {
                let groups = groups.split(',').filter(|group| !group.is_empty()).map(|group| group.parse().ok());
                Line::User(User {
                    uid: uid.parse().ok()?,
                    gid: gid.parse().ok()?,
                    groups: groups.collect::<Option<_>>()?,
                    home: home.to_owned(),
                })
            }
            ["ready"] => Line::Ready,
            ["failed", code, errno, step, message] => Line::Failed(Error {
                code: serde_json::from_str::<Code>(&format!("\"{code}\"")).ok()?,
                errno: errno.parse().ok().filter(|errno| *errno != 0),
                step: step.to_owned(),
                message: message.to_owned(),
            }),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in() -> std::io::Result<()> {
        let (mut told, tell) = std::io::pipe()?;
        let lines = [
            Line::Namespace("net".to_owned(), 4026531840),
            Line::User(User { uid: 1, gid: 2, groups: vec![3, 4], home: "/root".to_owned() }),
            Line::User(User::default()),
            Line::Failed(Error::os("mount proc on /proc", nix::errno::Errno::EPERM)),
            Line::Failed(Error::new(Code::Invalid, "", "no")),
            Line::Ready,
        ];
        Line::send_all(&lines[..3], &tell)?;
        for line in &lines[3..] {
            line.send(&tell)?;
        }
        drop(tell);
        let mut text = String::new();
        told.read_to_string(&mut text)?;
        assert_eq!(text.lines().filter_map(Line::parse).collect::<Vec<_>>(), lines);
        Ok(())
    }
}
