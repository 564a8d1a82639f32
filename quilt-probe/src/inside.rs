//! The other side of the exec phase: what `quilt-probe` does as a process of the container's, a fork of itself that is
//! confined like any command and never dumpable. It needs nothing of the image: no shell, no library, no file.
//!
//! It talks over its standard input, a socket: it sends back the sixteen bytes of a nonce; then for every command that it
//! is sent (length in four bytes, little end first; a JSON array of words) one byte, the exit status. Output goes to its
//! own standard output, a pipe. It ends when the socket does.

use std::ffi::{CString, OsStr};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use quilt_exec::Program;
use quilt_record::process::reap;
use quilt_record::sys;

/// The longest command, in bytes.
const COMMAND_MAX: u32 = 1 << 20;

/// Runs until the socket ends; the exit status. What it starts gets the environment of `program`.
pub(crate) fn checker(program: &Program) -> u8 {
    u8::from(sys::duplicate_number(0).and_then(|fd| serve(fd.into(), &program.env)).is_err())
}

/// The same without commands, for a visitor.
pub(crate) fn visitor() -> u8 {
    let answered = sys::duplicate_number(0).and_then(|fd| {
        let mut socket = UnixStream::from(fd);
        echo(&mut socket)?;
        socket.read(&mut [0])
    });
    u8::from(answered.is_err())
}

fn echo(socket: &mut UnixStream) -> io::Result<()> {
    let mut nonce = [0u8; 16];
    socket.read_exact(&mut nonce)?;
    socket.write_all(&nonce)
}

fn serve(mut socket: UnixStream, env: &[CString]) -> io::Result<()> {
    echo(&mut socket)?;
    let mut length = [0u8; 4];
    while socket.read_exact(&mut length).is_ok() {
        let length = u32::from_le_bytes(length).min(COMMAND_MAX);
        let mut text = Vec::new();
        (&mut socket).take(length.into()).read_to_end(&mut text)?;
        let words: Vec<String> = serde_json::from_slice(&text).map_err(io::Error::other)?;
        socket.write_all(&[run(&words, env)])?;
    }
    Ok(())
}

/// Runs a command as `quilt-exec` does, and says in its output why it could not.
fn run(words: &[String], env: &[CString]) -> u8 {
    let [name, rest @ ..] = words else { return 127 };
    let variable = |entry: &CString| {
        let bytes = entry.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&bytes[..end]).to_owned(), OsStr::from_bytes(&bytes[end + 1..]).to_owned()))
    };
    let env = env.iter().filter_map(variable);
    let mut command = Command::new(name);
    command.args(rest).env_clear().envs(env).stdin(Stdio::null());
    let refused = |e: io::Error| {
        let why = Errno::from_raw(e.raw_os_error().unwrap_or_default()).desc();
        let _ = writeln!(io::stderr(), "run {name}: {why}");
        if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
    };
    // Not by posix_spawn(3), which leaves signals of libc's own ignored in what it starts.
    match sys::fork(0, None, || {
        sys::reset_signals();
        refused(command.exec())
    }) {
        Ok(child) => reap(child.pid, true).ok().flatten().unwrap_or(125),
        Err(e) => refused(e),
    }
}
