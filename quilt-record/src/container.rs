//! A container's directory: the claim, the record in one file per section, the lock.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, symlinkat, unlinkat};

use crate::claim::{Claim, Holder, Work};
use crate::error::{Code, Error, Step};
use crate::id::Id;
use crate::instance::Instance;
use crate::lock;
use crate::record::{RECORD_MAX, Record, STAGES};
use crate::sys;

const CLAIM: &str = "claim";
const RECORD: &str = "record.json";

/// How often a claim begins again because `quilt gc` was quicker.
const TRIES: u32 = 100;

/// How long `quilt gc` may take to remove an empty directory.
const GC_LIMIT: Duration = Duration::from_secs(10);

/// A container's directory, open.
#[derive(Debug)]
pub struct Container {
    id: Id,
    path: PathBuf,
    dir: OwnedFd,
}

impl Container {
    /// Claims the id of `record`: makes its directory, complete with claim and record, under the lock. Whoever loses
    /// the race gets `exists` and has changed nothing.
    pub fn claim(instance: &Instance, record: &Record, work: Work) -> Result<Container, Error> {
        let (id, claim) = (record.id()?, record.claim()?);
        let step = || format!("claim the name {id}");
        let parent = open_dir(AT_FDCWD, &instance.containers()).step(step)?;
        let fresh = format!(".new-{claim}");
        let target = Holder { claim, work }.to_string();
        for _ in 0..TRIES {
            mkdirat(&parent, fresh.as_str(), Mode::S_IRWXU).step(step)?;
            let made = || -> Result<Option<OwnedFd>, Error> {
                let Some(dir) = lock_fresh(parent.as_fd(), &fresh, &id)? else { return Ok(None) };
                match symlinkat(target.as_str(), &dir, CLAIM) {
                    Err(Errno::ENOENT) => return Ok(None),
                    made => made.step(step)?,
                }
                write_at(&dir, RECORD, &record.to_string(), false).step(step)?;
                match sys::rename_noreplace(&parent, fresh.as_str(), &parent, id.as_str()) {
                    Ok(()) => Ok(Some(dir)),
                    Err(Errno::EEXIST) => Err(exists(&id)),
                    Err(e) => Err(Error::os(step(), e)),
                }
            }();
            match made {
                Ok(Some(dir)) => return Ok(Container { path: instance.containers().join(id.as_str()), id, dir }),
                Ok(None) => {}
                Err(error) => {
                    let _ = remove_flat(parent.as_fd(), &fresh);
                    return Err(error);
                }
            }
        }
        Err(Error::new(Code::Busy, step(), "quilt gc removes what is made for it again and again"))
    }

    /// Opens the directory of a container; `not_found` if there is none. Does not lock.
    pub fn open(instance: &Instance, id: &Id) -> Result<Container, Error> {
        let path = instance.containers().join(id.as_str());
        match open_dir(AT_FDCWD, &path) {
            Ok(dir) => Ok(Container { id: id.clone(), path, dir }),
            Err(Errno::ENOENT) => Err(Error::new(Code::NotFound, "", format!("no container named {id}"))),
            Err(e) => Err(Error::os(format!("open the container {id}"), e)),
        }
    }

    /// The ids of all containers of the instance, sorted.
    pub fn list(instance: &Instance) -> Result<Vec<Id>, Error> {
        let entries = match std::fs::read_dir(instance.containers()) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::os("list the containers", e)),
        };
        let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = dirs.filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<Id> = names.filter_map(|name| name.parse().ok()).collect();
        ids.sort();
        Ok(ids)
    }

    /// The container's id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// The path of its directory.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Its directory.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Takes the lock that everything which changes the container holds, waiting at most `limit`, and makes sure that
    /// the directory still is what the name means.
    pub fn lock(&self, limit: Duration) -> Result<(), Error> {
        lock::acquire(self.dir.as_fd(), limit, self.id.as_str())?;
        let step = || format!("look at the container {}", self.id);
        let mine = fstat(&self.dir).step(step)?;
        match fstatat(AT_FDCWD, &self.path, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(now) if (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino) => Ok(()),
            Ok(_) | Err(Errno::ENOENT) => {
                Err(Error::new(Code::NotFound, "", format!("the container {} was removed meanwhile", self.id)))
            }
            Err(e) => Err(Error::os(step(), e)),
        }
    }

    /// Who holds the container, and for what.
    pub fn holder(&self) -> Result<Holder, Error> {
        let step = || format!("read the claim of {} (`quilt rm -f {}` removes it)", self.id, self.id);
        let target = readlinkat(&self.dir, CLAIM).step(step)?;
        let text = target.to_string_lossy();
        text.parse().map_err(|e: String| Error::new(Code::Invalid, step(), e))
    }

    /// Replaces what is being done under the claim, atomically. The lock must be held.
    pub fn set_work(&self, claim: Claim, work: Work) -> Result<(), Error> {
        let step = || format!("mark the claim of {}", self.id);
        let fresh = format!("{CLAIM}.new");
        let _ = unlinkat(&self.dir, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
        symlinkat(Holder { claim, work }.to_string().as_str(), &self.dir, fresh.as_str()).step(step)?;
        renameat(&self.dir, fresh.as_str(), &self.dir, CLAIM).step(step)
    }

    /// A file of the container's directory; `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let step = || format!("read {}", self.path.join(name).display());
        // A fifo would be waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(&self.dir, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(Error::os(step(), e)),
        };
        // Room for what there usually is: else it is read in pieces that begin with 32 bytes.
        let mut text = String::with_capacity(4 << 10);
        file.take(RECORD_MAX).read_to_string(&mut text).step(step)?;
        Ok(Some(text))
    }

    /// Writes a file of the container's directory, whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        write_at(&self.dir, name, text, false).step(|| format!("write {}", self.path.join(name).display()))
    }

    /// The same, and it outlives a power cut.
    pub fn write_synced(&self, name: &str, text: &str) -> Result<(), Error> {
        let written = write_at(&self.dir, name, text, true).and_then(|()| Ok(fsync(&self.dir)?));
        written.step(|| format!("write {}", self.path.join(name).display()))
    }

    /// Removes a file of the container's directory, if it is there.
    pub fn unlink(&self, name: &str) -> Result<(), Error> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(Error::os(format!("remove {}", self.path.join(name).display()), e)),
        }
    }

    /// The saved record: what was claimed with, under the sections that the tools wrote since.
    pub fn record(&self) -> Result<Record, Error> {
        let parse = |name: &str, text: String| {
            let what = || format!("{} (`quilt rm -f {}` removes it)", self.path.join(name).display(), self.id);
            let record = Record::parse(&text);
            record.map_err(|e| Error::new(Code::Invalid, format!("read {}", what()), e.message))
        };
        let text = self
            .read(RECORD)?
            .ok_or_else(|| Error::new(Code::NotFound, format!("read the record of {}", self.id), "there is none"))?;
        let mut record = parse(RECORD, text)?;
        for stage in STAGES {
            if let Some(text) = self.read(&section_file(stage))? {
                record.overlay(parse(&section_file(stage), format!("{{\"format\":1,\"{stage}\":{text}}}"))?);
            }
        }
        Ok(record)
    }

    /// Saves a section: `json` is its text.
    pub fn write_section(&self, stage: &str, json: &str) -> Result<(), Error> {
        self.write(&section_file(stage), json)
    }

    /// Removes the directory, which must hold nothing but plain files by now. Under the lock, and last of all: it frees
    /// the name.
    pub fn remove(self, claim: Claim) -> Result<(), Error> {
        let step = || format!("remove {}", self.path.display());
        let parent = self.path.parent().map(|p| open_dir(AT_FDCWD, p)).transpose().step(step)?;
        let Some(parent) = parent else { return Ok(()) };
        let gone = format!(".rm-{claim}");
        renameat(&parent, self.id.as_str(), &parent, gone.as_str()).step(step)?;
        remove_flat(parent.as_fd(), &gone).step(step)
    }
}

/// Removes what a claim or a removal that died left half-made (`.new-CLAIM`, `.rm-CLAIM`), by the claim's name.
pub fn remove_remains(instance: &Instance, claim: Claim) -> Result<(), Error> {
    let step = || "remove what an interrupted command left".to_owned();
    let parent = match open_dir(AT_FDCWD, &instance.containers()) {
        Ok(parent) => parent,
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(Error::os(step(), e)),
    };
    for name in [format!(".new-{claim}"), format!(".rm-{claim}")] {
        match remove_flat(parent.as_fd(), &name) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(Error::os(step(), e)),
        }
    }
    Ok(())
}

/// `exists`, for a name that is taken.
pub fn exists(id: &Id) -> Error {
    Error::new(Code::Exists, "", format!("a container named {id} exists (quilt rm {id} removes it)"))
}

/// Opens and locks a directory that was just made. `None` if it is gone again: until it is locked, it looks like what an
/// interrupted command left, and `quilt gc` may have taken it for that.
fn lock_fresh(parent: BorrowedFd<'_>, fresh: &str, id: &Id) -> Result<Option<OwnedFd>, Error> {
    match open_dir(parent, fresh) {
        // Whoever has the lock is about to remove it.
        Ok(dir) => lock::acquire(dir.as_fd(), GC_LIMIT, id.as_str()).map(|()| Some(dir)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(Error::os(format!("claim the name {id}"), e)),
    }
}

fn section_file(stage: &str) -> String {
    format!("{stage}.json")
}

fn open_dir<P: nix::NixPath + ?Sized>(at: BorrowedFd<'_>, path: &P) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}

fn write_at(dir: &OwnedFd, name: &str, text: &str, sync: bool) -> std::io::Result<()> {
    let fresh = format!("{name}.new");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mut file = File::from(openat(dir, fresh.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let mut write = || {
        file.write_all(text.as_bytes())?;
        if sync {
            file.sync_all()?;
        }
        Ok(renameat(dir, fresh.as_str(), dir, name)?)
    };
    let written = write();
    if written.is_err() {
        // On a full disk, an inode is something.
        let _ = unlinkat(dir, fresh.as_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

/// Removes a directory that holds plain files and symlinks only; ENOTEMPTY if there is a directory in it.
fn remove_flat(parent: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let mut dir = Dir::from_fd(open_dir(parent, name)?)?;
    let names = dir.iter().map(|entry| entry.map(|e| e.file_name().to_owned())).collect::<nix::Result<Vec<_>>>()?;
    for file in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        match unlinkat(&dir, file.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) => return Err(Errno::ENOTEMPTY),
            Err(e) => return Err(e),
        }
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::{fs, thread};

    use super::*;

    #[test]
    fn a_claim_is_made_though_gc_takes_it_for_remains() -> Result<(), Error> {
        let root = std::env::temp_dir().join(format!("quilt-claim-{}", std::process::id()));
        fs::create_dir_all(root.join("containers")).step(|| "make a directory")?;
        let instance = Instance::locate(Some(&root))?;
        let ended = AtomicBool::new(false);
        let made = thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    for entry in fs::read_dir(instance.containers()).into_iter().flatten().flatten() {
                        if entry.file_name().as_encoded_bytes().starts_with(b".new-") {
                            let _ = fs::remove_dir(entry.path());
                        }
                    }
                }
            });
            let made = (0..200u128).try_for_each(|n| -> Result<(), Error> {
                let (id, claim) = (Id::generate(n), Claim::generate());
                let container = Container::claim(&instance, &Record::new(&id, &claim), Work::Settled)?;
                assert_eq!(container.holder()?.claim, claim);
                container.remove(claim)
            });
            ended.store(true, Ordering::Relaxed);
            made
        });
        let left = Container::list(&instance)?;
        fs::remove_dir_all(root).step(|| "clean up")?;
        assert_eq!(left, []);
        made
    }
}
