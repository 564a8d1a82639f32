//! An image file as a stream of archive bytes: read, hashed and decompressed in a thread of its own, in buffers that go
//! round, so that memory stays small and the writer never waits for the disk and the decoder at once.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use flate2::bufread::GzDecoder;
use quilt_record::error::{Code, Error};
use quilt_record::signals;
use sha2::{Digest, Sha256};

/// The size of a buffer, and how many go round.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 8;

/// The widest zstd window: 32 MiB, what `zstd -22` stays in without `--ultra` or `--long`.
const WINDOW_LOG: u32 = 25;

/// How an image file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// Recognises it by the file's first bytes.
    pub fn of(magic: &[u8]) -> Compression {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A frame, or one to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::Plain,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Plain => "plain tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Bytes of an archive, as they come.
pub trait Bytes {
    /// What comes next; empty at the end, and only there.
    fn fill(&mut self) -> Result<&[u8], Error>;
    /// Passes over the first bytes of what [`Bytes::fill`] returned.
    fn consume(&mut self, amount: usize);
}

impl Bytes for &[u8] {
    fn fill(&mut self) -> Result<&[u8], Error> {
        Ok(self)
    }

    fn consume(&mut self, amount: usize) {
        *self = self.get(amount..).unwrap_or_default();
    }
}

/// What the reading thread sends.
type Message = Result<Vec<u8>, Error>;

/// The decompressed bytes of an image file.
pub struct Source<'a> {
    full: Option<Receiver<Message>>,
    empty: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<[u8; 32]>>,
    chunk: Vec<u8>,
    at: usize,
    /// Bytes of the file read so far.
    done: Arc<AtomicU64>,
    /// Called with that number once per buffer.
    watch: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> Source<'a> {
    /// Starts to read `file`. `watch` is called now and then with the number of its bytes read so far.
    /// From here on the process has two threads, until this is dropped, and must not fork.
    pub fn start(file: File, watch: impl FnMut(u64) + 'a) -> Result<Source<'a>, Error> {
        let (send_full, full) = sync_channel(CHUNKS);
        let (empty, take_empty) = sync_channel(CHUNKS);
        for _ in 0..CHUNKS {
            // There is room for all of them.
            let _ = empty.try_send(Vec::new());
        }
        let done = Arc::new(AtomicU64::new(0));
        let input = Input::new(file, Arc::clone(&done));
        let run = move || decode(input, &send_full, &take_empty);
        let thread = std::thread::Builder::new().name("decode".to_owned()).spawn(run);
        let thread = Some(thread.map_err(|e| Error::os("start a thread", e))?);
        let watch = Box::new(watch);
        Ok(Source { full: Some(full), empty: Some(empty), thread, chunk: Vec::new(), at: 0, done, watch })
    }

    /// Reads the rest, which is nothing of the archive, and returns the SHA-256 of the file.
    pub fn finish(mut self) -> Result<[u8; 32], Error> {
        loop {
            let length = self.fill()?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        let digest = self.thread.take().and_then(|thread| thread.join().ok());
        digest.ok_or_else(|| Error::new(Code::Internal, "", "the decoder died"))
    }
}

impl Bytes for Source<'_> {
    fn fill(&mut self) -> Result<&[u8], Error> {
        if self.at == self.chunk.len() {
            self.at = 0;
            let old = std::mem::take(&mut self.chunk);
            if let Some(empty) = &self.empty
                && old.capacity() > 0
            {
                // Without a taker the thread is at its end.
                let _ = empty.try_send(old);
            }
            signals::check()?;
            (self.watch)(self.done.load(Ordering::Relaxed));
            // The other end is dropped when the stream ends.
            self.chunk = self.full.as_ref().and_then(|full| full.recv().ok()).unwrap_or(Ok(Vec::new()))?;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.chunk.len());
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        // Both ends gone, the thread finds nothing to do.
        self.full = None;
        self.empty = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The image file, hashed as it is read.
struct Input {
    file: File,
    hash: Sha256,
    done: Arc<AtomicU64>,
    buffer: Vec<u8>,
    at: usize,
}

impl Input {
    fn new(file: File, done: Arc<AtomicU64>) -> Input {
        Input { file, hash: Sha256::new(), done, buffer: Vec::new(), at: 0 }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.at = 0;
            self.buffer.resize(CHUNK, 0);
            let length = self.file.read(&mut self.buffer);
            self.buffer.truncate(*length.as_ref().unwrap_or(&0));
            length?;
            self.hash.update(&self.buffer);
            self.done.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.buffer.len());
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
        self.consume(length);
        Ok(length)
    }
}

/// The thread: sends everything, or the error that ends it, and returns the file's SHA-256.
fn decode(mut input: Input, full: &SyncSender<Message>, empty: &Receiver<Vec<u8>>) -> [u8; 32] {
    if let Err(error) = decompress(&mut input, full, empty) {
        let _ = full.send(Err(error));
    }
    input.hash.finalize().into()
}

fn decompress(input: &mut Input, full: &SyncSender<Message>, empty: &Receiver<Vec<u8>>) -> Result<(), Error> {
    let compression = Compression::of(input.fill_buf().map_err(|e| Error::os("", e))?);
    let damaged = |e: io::Error| damaged(compression, e);
    match compression {
        Compression::Plain => pump(input, full, empty).map(drop).map_err(damaged),
        Compression::Zstd => {
            // Goes on with the next frame by itself.
            let mut reader = zstd::Decoder::with_buffer(input).map_err(damaged)?;
            reader.window_log_max(WINDOW_LOG).map_err(damaged)?;
            pump(&mut reader, full, empty).map(drop).map_err(damaged)
        }
        Compression::Gzip => loop {
            if !pump(&mut GzDecoder::new(&mut *input), full, empty).map_err(damaged)? {
                return Ok(());
            }
            // Zeros pad a file on some media (as gzip(1) has it); what else follows is another member.
            let next = loop {
                let rest = input.fill_buf().map_err(damaged)?;
                let zeros = rest.iter().take_while(|b| **b == 0).count();
                if rest.is_empty() || zeros < rest.len() {
                    break rest.get(zeros).copied();
                }
                input.consume(zeros);
            };
            match next {
                None => return Ok(()),
                Some(0x1f) if input.buffer[input.at] == 0x1f => {}
                Some(_) => {
                    return Err(Error::new(Code::Invalid, "", "something that is not gzip follows the gzip data"));
                }
            }
        },
    }
}

/// Sends all of `from`. False if nobody takes it any more.
fn pump(from: &mut impl Read, full: &SyncSender<Message>, empty: &Receiver<Vec<u8>>) -> io::Result<bool> {
    loop {
        let Ok(mut chunk) = empty.recv() else { return Ok(false) };
        chunk.resize(CHUNK, 0);
        let mut length = 0;
        while length < CHUNK {
            match from.read(&mut chunk[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if length == 0 {
            return Ok(true);
        }
        chunk.truncate(length);
        if full.send(Ok(chunk)).is_err() {
            return Ok(false);
        }
    }
}

/// An error of a decoder, which has no errno, or of reading the file.
fn damaged(compression: Compression, error: io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::os("read", error);
    }
    let name = compression.as_str();
    let text = error.to_string();
    if error.kind() == ErrorKind::UnexpectedEof || text.contains("incomplete frame") {
        return Error::new(Code::Invalid, "", format!("the {name} data is cut short"));
    }
    if text.contains("too much memory") {
        let why = format!("its zstd window is over {} MiB: compress it without --long", 1 << (WINDOW_LOG - 20));
        return Error::new(Code::Unsupported, "", why);
    }
    Error::new(Code::Invalid, "", format!("the {name} data is damaged: {text}"))
}
