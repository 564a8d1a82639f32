//! Images on disk: each unpacked once, found again without reading it.
//!
//! `images/<sha256>/{rootfs,image.json}`, made as `images/.new-CLAIM` and renamed when complete and on the disk; and
//! `images/at.DEV.INODE.SIZE.MTIME.CTIME`, a symlink whose target is that name, for the file that had these.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, symlinkat, syncfs, unlinkat};
use quilt_record::claim::Claim;
use quilt_record::error::{Code, Error, Step};
use quilt_record::{lock, signals, sys};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::archive::{Archive, NOT_AN_IMAGE};
use crate::progress::Progress;
use crate::source::{Compression, Source};
use crate::tree;
use crate::write::Tree;

/// The longest wait for somebody else who unpacks the same image.
const LOCK_LIMIT: Duration = Duration::from_secs(3600);

/// Time stamps of files come from a clock of the kernel's that ticks at HZ, at least 100.
const TICK: Duration = Duration::from_millis(10);

/// What `image.json` says of an unpacked image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` and the hexadecimal SHA-256 of the image file.
    pub digest: String,
    /// The size of the image file, in bytes.
    pub size: u64,
    /// How many entries the archive has.
    pub entries: u64,
    /// Bytes in its files, unpacked.
    pub unpacked: u64,
    /// When it was unpacked: RFC 3339.
    pub created: String,
}

/// A read-only lower layer, ready to be mounted.
#[derive(Clone, Debug)]
pub struct Lower {
    /// `sha256:…`; none for a directory that is used in place.
    pub digest: Option<String>,
    /// The directory: an absolute path.
    pub path: PathBuf,
    /// What the directory looks like.
    pub root: Metadata,
}

/// What stands at an image's path.
pub enum Found {
    /// A directory, or a file that has been unpacked.
    Lower(Lower),
    /// A file that has not been unpacked.
    File(Metadata),
}

/// Looks an image up by its path, in three system calls if it has been unpacked; does not open it.
pub fn find(images: &Path, image: &Path) -> Result<Found, Error> {
    let look = |path: &Path| fs::metadata(path).step(|| path.display().to_string());
    let there = look(image)?;
    if there.is_dir() {
        let path = fs::canonicalize(image).step(|| image.display().to_string())?;
        return Ok(Found::Lower(Lower { digest: None, path, root: there }));
    }
    if !there.is_file() {
        return Err(Error::new(Code::Invalid, image.display().to_string(), NOT_AN_IMAGE));
    }
    Ok(published(images, &key(&there)).map_or(Found::File(there), Found::Lower))
}

/// How an image file is compressed, by its first bytes.
pub fn compression(image: &Path) -> Result<Compression, Error> {
    let mut magic = [0; 4];
    let file = File::open(image).step(|| image.display().to_string())?;
    let length = file.read_at(&mut magic, 0).step(|| image.display().to_string())?;
    Ok(Compression::of(&magic[..length]))
}

/// The name under which a file with this identity is known.
fn key(file: &Metadata) -> String {
    format!(
        "at.{}.{}.{}.{}.{:09}.{}.{:09}",
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec()
    )
}

fn published(images: &Path, key: &str) -> Option<Lower> {
    let name = fs::read_link(images.join(key)).ok()?;
    let path = images.join(&name).join("rootfs");
    let root = fs::metadata(&path).ok()?;
    Some(Lower { digest: Some(format!("sha256:{}", name.display())), path, root })
}

/// Unpacks the image file, or waits for somebody who is doing so; says whether nothing had to be done.
///
/// Call while the process has one thread. What is half-made is `.new-CLAIM`, and is removed on failure.
pub fn unpack(images: &Path, image: &Path, claim: Claim) -> Result<(Lower, bool), Error> {
    let about = |e: Error| about(image, e);
    let dir: OwnedFd = File::open(images).step(|| format!("open {}", images.display()))?.into();
    let file = File::open(image).step(|| image.display().to_string())?;
    let before = file.metadata().step(|| image.display().to_string())?;
    let key = key(&before);
    let turn = Turn::take(&dir, &key, image)?;
    if let Some(lower) = published(images, &key) {
        return Ok((lower, true));
    }
    let mut digest = None;
    wait_for_tick(&before);
    if list(images)?.iter().any(|known| known.size == before.size()) {
        // Likely the same, under another name or touched: reading costs less than unpacking.
        digest = Some(hash(&file).map_err(about)?).filter(|hex| images.join(hex).join("rootfs").is_dir());
    }
    let cached = digest.is_some();
    let digest = match digest {
        Some(digest) => digest,
        None => {
            let fresh = format!(".new-{claim}");
            let made = make(&dir, &fresh, file.try_clone().step(|| "open the image again")?, &before);
            if made.is_err() {
                // The error that came first is the one to report.
                let _ = tree::remove(dir.as_fd(), &fresh);
            }
            made.map_err(about)?
        }
    };
    let after = file.metadata().step(|| image.display().to_string())?;
    if self::key(&after) != key {
        return Err(about(Error::new(Code::Invalid, "", "it was changed while it was read")));
    }
    let _ = unlinkat(&dir, key.as_str(), UnlinkatFlags::NoRemoveDir);
    match symlinkat(digest.as_str(), &dir, key.as_str()) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(Error::os(format!("note {}", image.display()), e)),
    }
    drop(turn);
    let missing = || Error::new(Code::Internal, image.display().to_string(), "the unpacked image is gone");
    Ok((published(images, &key).ok_or_else(missing)?, cached))
}

/// An error about the image.
fn about(image: &Path, error: Error) -> Error {
    if error.code == Code::Interrupted {
        return error;
    }
    let image = image.display();
    let step = if error.step.is_empty() { image.to_string() } else { format!("{image}: {}", error.step) };
    Error { step, ..error }
}

/// One unpacks, the others wait: a lock file per image file.
struct Turn<'a> {
    dir: &'a OwnedFd,
    name: String,
    /// The lock is this open file's.
    _file: OwnedFd,
}

impl Turn<'_> {
    fn take<'a>(dir: &'a OwnedFd, key: &str, image: &Path) -> Result<Turn<'a>, Error> {
        let name = format!(".lock-{key}");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(dir, name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).step(|| format!("make {name}"))?;
        lock::acquire(file.as_fd(), LOCK_LIMIT, &image.display().to_string())?;
        Ok(Turn { dir, name, _file: file })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Who waits on the file that this unlinks gets its lock, and finds the image. Who comes later makes another. So
        // two may unpack the same at once only after a failure, and then the rename decides.
        let _ = unlinkat(self.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// A file written again within the same tick looks unchanged. Reading begins when that tick is over.
fn wait_for_tick(file: &Metadata) {
    let changed = u64::try_from(file.ctime()).map(|s| Duration::new(s, file.ctime_nsec() as u32)).unwrap_or_default();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    if let Some(age) = now.checked_sub(changed).filter(|age| *age < TICK) {
        std::thread::sleep(TICK - age);
    }
}

/// The SHA-256 of a file, in hexadecimal digits.
fn hash(file: &File) -> Result<String, Error> {
    let (mut hash, mut buffer, mut at) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        signals::check()?;
        match file.read_at(&mut buffer, at).step(|| "read")? {
            0 => return Ok(hex(&hash.finalize().into())),
            length => {
                hash.update(&buffer[..length]);
                at += length as u64;
            }
        }
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks `file` as `fresh` and publishes it under its digest, which it returns.
fn make(dir: &OwnedFd, fresh: &str, file: File, about: &Metadata) -> Result<String, Error> {
    let step = || format!("make images/{fresh}");
    match mkdirat(dir, fresh, Mode::S_IRWXU) {
        Err(Errno::EEXIST) => {
            // The same claim tried before and was killed.
            tree::remove(dir.as_fd(), fresh)?;
            mkdirat(dir, fresh, Mode::S_IRWXU).step(step)?;
        }
        made => made.step(step)?,
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let image = openat(dir, fresh, flags, Mode::empty()).step(step)?;
    let old = umask(Mode::empty());
    let filled = fill(&image, flags, file, about);
    umask(old);
    let (digest, entries, unpacked) = filled?;
    let created = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let text = Image { digest: format!("sha256:{digest}"), size: about.size(), entries, unpacked, created };
    let text = serde_json::to_string(&text).map_err(|e| Error::new(Code::Internal, step(), e.to_string()))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&image, "image.json", flags, Mode::S_IRUSR | Mode::S_IWUSR).step(step)?;
    File::from(file).write_all_at(text.as_bytes(), 0).step(step)?;
    // On the disk before it has its name: after a power cut an image is whole or not there.
    syncfs(dir).step(|| "write the image to the disk")?;
    signals::check()?;
    match sys::rename_noreplace(dir, fresh, dir, digest.as_str()) {
        Ok(()) => Ok(digest),
        // Another file with the same content came first.
        Err(Errno::EEXIST) => tree::remove(dir.as_fd(), fresh).map(|()| digest),
        Err(e) => Err(Error::os(format!("publish the image {digest}"), e)),
    }
}

/// Unpacks `file` into `rootfs` of the directory `image`: its digest, and how much it was.
fn fill(image: &OwnedFd, flags: OFlag, file: File, about: &Metadata) -> Result<(String, u64, u64), Error> {
    mkdirat(image, "rootfs", Mode::from_bits_truncate(0o755)).step(|| "make rootfs")?;
    let mut tree = Tree::new(openat(image, "rootfs", flags, Mode::empty()).step(|| "open rootfs")?)?;
    let progress = Progress::new(about.size());
    let source = Source::start(file, move |done| progress.at(done))?;
    let mut archive = Archive::new(source);
    tree.fill(&mut archive)?;
    let digest = archive.into_inner().finish()?;
    let (entries, bytes) = tree.count();
    Ok((hex(&digest), entries, bytes))
}

/// The unpacked images of an instance, in the order of their digests.
pub fn list(images: &Path) -> Result<Vec<Image>, Error> {
    let step = || format!("list {}", images.display());
    let entries = match fs::read_dir(images) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.step(step)?,
    };
    let mut list = Vec::new();
    for entry in entries {
        let entry = entry.step(step)?;
        let name = entry.file_name();
        if !is_digest(name.as_encoded_bytes()) {
            continue;
        }
        let mut text = String::new();
        let read = File::open(entry.path().join("image.json")).and_then(|f| f.take(1 << 16).read_to_string(&mut text));
        // One that is being removed has none.
        if read.is_ok()
            && let Ok(image) = serde_json::from_str(&text)
        {
            list.push(image);
        }
    }
    list.sort_by(|a: &Image, b: &Image| a.digest.cmp(&b.digest));
    Ok(list)
}

/// Whether a name is that of an unpacked image.
pub(crate) fn is_digest(name: &[u8]) -> bool {
    name.len() == 64 && name.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
}

/// Opens the directory of the images; `None` if there is none yet.
pub(crate) fn open(images: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match openat(AT_FDCWD, images, flags, Mode::empty()) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(Error::os(format!("open {}", images.display()), e)),
    }
}
