//! The answer to a question for a list, part by part: whole, or an error, or one to be asked for again.

use std::io;

use super::{ERROR, i32_at, messages};

/// `NLMSG_DONE`, linux/netlink.h.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`, linux/netlink.h: the list changed while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// The answer to one question for a list.
pub(super) struct List {
    pub(super) sequence: u32,
    pub(super) all: Vec<Vec<u8>>,
    pub(super) ended: bool,
    pub(super) interrupted: bool,
}

impl List {
    pub(super) fn new(sequence: u32) -> List {
        List { sequence, all: Vec::new(), ended: false, interrupted: false }
    }

    /// Takes the next part. The last message has an error number, as an acknowledgement has: if it is any, what came before
    /// is not all.
    pub(super) fn read(&mut self, part: &[u8]) -> io::Result<()> {
        for message in messages(part).filter(|message| message.sequence == self.sequence) {
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                ERROR | DONE => match i32_at(message.payload, 0) {
                    Some(error @ ..0) => return Err(io::Error::from_raw_os_error(-error)),
                    _ => self.ended = true,
                },
                _ => self.all.push(message.payload.to_vec()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::HEADER;
    use super::*;

    /// A message as the kernel sends it.
    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        let [a, b] = [kind.to_ne_bytes(), flags.to_ne_bytes()];
        [&length.to_ne_bytes(), &a[..], &b, &sequence.to_ne_bytes(), &[0; 4], payload].concat()
    }

    /// The last message of a list.
    fn done(flags: u16, errno: i32) -> Vec<u8> {
        message(DONE, flags, 7, &(-errno).to_ne_bytes())
    }

    #[test]
    fn a_list_is_whole_or_none() -> io::Result<()> {
        const ADDRESS: u16 = 20;
        let item = |flags| message(ADDRESS, flags, 7, b"item");
        let mut list = List::new(7);
        list.read(&[message(ADDRESS, 2, 6, b"old!"), item(2)].concat())?;
        assert!(!list.ended);
        list.read(&done(2, 0))?;
        assert_eq!((list.all, list.ended, list.interrupted), (vec![b"item".to_vec()], true, false));
        let failed = |part: &[u8]| List::new(7).read(part).map_err(|e| e.raw_os_error());
        assert_eq!(failed(&[item(2), done(2, libc::EMSGSIZE)].concat()), Err(Some(libc::EMSGSIZE)));
        assert_eq!(failed(&message(ERROR, 0, 7, &(-libc::EPERM).to_ne_bytes())), Err(Some(libc::EPERM)));
        // On any message of it.
        for part in [[item(2 | NLM_F_DUMP_INTR), done(2, 0)], [item(2), done(2 | NLM_F_DUMP_INTR, 0)]] {
            let mut list = List::new(7);
            list.read(&part.concat())?;
            assert!(list.ended && list.interrupted);
        }
        Ok(())
    }
}
