//! Image → a root file system ready to mount: `quilt-unpack`.
//!
//! An image is a tar archive, plain or compressed with gzip or zstd (recognised by content), or a directory. An archive is
//! unpacked once per content and shared by all containers as their read-only lower layer; a directory is used in
//! place. Each container gets a writable layer of its own. Nothing is mounted here: `quilt-spawn` does that, inside the
//! container's mount namespace.
//!
//! The one hard thing: the archive is hostile. Every name in it is resolved inside the new tree by the kernel
//! (`write.rs`, `parents.rs`), every length is bounded before it is believed (`entry.rs`, `archive.rs`), and what one
//! container left behind is removed without ever following it (`tree.rs`).

use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};
use quilt_record::claim::Claim;
use quilt_record::container::Container;
use quilt_record::error::{Code, Error, Step};
use quilt_record::have::Unpack;
use quilt_record::id::Id;
use quilt_record::instance::Instance;
use quilt_record::stage::{Context, Outcome, Stage};
use serde::{Deserialize, Serialize};

use crate::cache::{Found, Lower};

mod archive;
mod cache;
mod entry;
mod header;
pub mod images;
mod parents;
mod pax;
mod progress;
mod source;
pub mod tree;
mod write;

pub use cache::Image;

/// What is asked of this stage.
#[derive(clap::Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// The image: a tar archive (plain, gzip or zstd; recognised by content), or a directory, used in place and never changed
    #[arg(value_name = "IMAGE", help_heading = "Image")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
}

impl Want {
    /// Makes the image's path absolute, so that a record means the same from every working directory.
    pub fn anchor(&mut self) -> Result<(), Error> {
        if let Some(image) = self.image.as_mut().filter(|image| image.is_relative() && !image.as_os_str().is_empty()) {
            *image = std::path::absolute(&*image).step(|| image.display().to_string())?;
        }
        Ok(())
    }
}

/// The stage.
pub const STAGE: Stage<Want, Unpack> = Stage { name: "unpack", act, undo, again: false };

/// The container's writable layer and the directory that overlayfs needs beside it.
const UPPER: &str = "upper";
const WORK: &str = "work";

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Unpack>> {
    let images = context.instance.images();
    let image = context.want.image.as_deref().filter(|image| !image.as_os_str().is_empty()).ok_or_else(|| {
        Error::new(Code::Invalid, "", "no image: give a tar archive (plain, gzip or zstd) or a directory")
    })?;
    let found = cache::find(&images, image)?;
    let Some(container) = context.container else {
        let dir = context.instance.containers().join(context.id.as_str());
        let first = match found {
            Found::Lower(Lower { digest: Some(digest), .. }) => format!("use the unpacked image {digest}"),
            Found::Lower(Lower { path, .. }) => format!("use the directory {} in place", path.display()),
            Found::File(file) => {
                let kind = cache::compression(image)?.as_str();
                format!("unpack {} ({kind}, {} bytes) into {}", image.display(), file.len(), images.display())
            }
        };
        let layers = [UPPER, WORK].map(|name| format!("mkdir {}", dir.join(name).display()));
        return Ok(Outcome::Plan([first].into_iter().chain(layers).collect()));
    };
    let (lower, cached) = match found {
        Found::Lower(lower) => {
            let cached = lower.digest.is_some();
            (lower, cached)
        }
        Found::File(_) => cache::unpack(&images, image, context.claim)?,
    };
    make_layer(container, &lower)?;
    let (upper, work) = (container.path().join(UPPER), container.path().join(WORK));
    Ok(Outcome::Done(Unpack { digest: lower.digest, lower: vec![lower.path], upper, work, cached }))
}

/// Makes the writable layer, whose root looks like the lower layer's: it is what the container sees as `/`.
/// One that is there already is kept, for it is the container's data.
fn make_layer(container: &Container, lower: &Lower) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    let dir = container.dir();
    let step = |name: &str| format!("mkdir {}", container.path().join(name).display());
    match mkdirat(dir, WORK, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(Error::os(step(WORK), e)),
    }
    match mkdirat(dir, UPPER, Mode::from_bits_truncate(0o755)) {
        Ok(()) => {}
        Err(Errno::EEXIST) => return Ok(()),
        Err(e) => return Err(Error::os(step(UPPER), e)),
    }
    let upper = || step(UPPER);
    let root = &lower.root;
    if (root.uid(), root.gid()) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(root.uid()), Gid::from_raw(root.gid()));
        fchownat(dir, UPPER, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).step(upper)?;
    }
    // Not left to mkdir, which heeds the caller's umask.
    fchmodat(dir, UPPER, Mode::from_bits_truncate(root.mode() & 0o7777), FchmodatFlags::FollowSymlink).step(upper)?;
    let mtime = TimeSpec::new(root.mtime(), root.mtime_nsec());
    utimensat(dir, UPPER, &TimeSpec::UTIME_OMIT, &mtime, UtimensatFlags::NoFollowSymlink).step(upper)
}

fn undo(instance: &Instance, id: &Id, claim: Claim) -> anyhow::Result<()> {
    let layers = match Container::open(instance, id) {
        // Both are tried, whatever becomes of the first.
        Ok(container) => [UPPER, WORK].map(|name| tree::remove(container.dir(), name)),
        Err(e) if e.code == Code::NotFound => [Ok(()), Ok(())],
        Err(e) => [Err(e), Ok(())],
    };
    let half_made = images::remove_half_made(instance, claim);
    for result in layers.into_iter().chain([half_made]) {
        result?;
    }
    Ok(())
}
