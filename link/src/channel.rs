//! Typed ends on top of a ring: commands, which are never dropped, and datagrams, which may be. Encoding and decoding
//! in postcard, in private buffers; ringing the other side's bell after publishing. Which channels there are is told
//! in `ends`.
//!
//! After a [`LinkError`] that blames the other side it has to be treated as dead.

use std::collections::VecDeque;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use crate::bell::Remote;
use crate::layout::{RingSpec, SLOT_PAYLOAD};
use crate::message::{Datagram, MAX_DATAGRAM};
use crate::ring::{Consumer, Corrupt, Producer, PushError};
use crate::shm::Region;

/// What can go wrong between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The other side is to blame: an impossible index or length.
    #[error("the other side of the link wrote an impossible index or length")]
    Corrupt,
    /// The other side is to blame: bytes that are no message.
    #[error("the other side of the link sent something that is not a message")]
    Garbage,
    /// The other side does not read any more: the queue of commands for it is full.
    #[error("the other side of the link does not take its commands any more")]
    Overflow,
    /// We are to blame: a message longer than its channel's longest.
    #[error("a message is too long for its channel of the link")]
    TooLong,
    /// We are to blame: a worker's number that this link does not have.
    #[error("there is no such worker on this link")]
    NoSuchWorker,
}

impl From<Corrupt> for LinkError {
    fn from(_: Corrupt) -> Self {
        LinkError::Corrupt
    }
}

/// How much may wait at the producer when a command ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBound {
    /// Messages.
    pub messages: usize,
    /// Encoded bytes.
    pub bytes: usize,
}

/// The sending end of a command channel. Commands leave in order and are never dropped.
pub struct CommandSender<T> {
    producer: Producer<Region>,
    consumer: Remote,
    queue: VecDeque<Zeroizing<Vec<u8>>>,
    queued_bytes: usize,
    bound: QueueBound,
    scratch: Box<[u8]>,
    _message: PhantomData<fn(&T)>,
}

impl<T: Serialize> CommandSender<T> {
    pub(crate) fn new(region: Region, spec: RingSpec, consumer: Remote, bound: QueueBound) -> Self {
        CommandSender {
            producer: Producer::new(region, spec.max_message),
            consumer,
            queue: VecDeque::new(),
            queued_bytes: 0,
            bound,
            // Encoding never grows it, so that no copy of a key stays behind. Pages that no message touched cost nothing.
            scratch: vec![0; spec.max_message].into_boxed_slice(),
            _message: PhantomData,
        }
    }

    /// Sends a command, or queues it when the ring is full. Queued commands leave with the next call of this or of
    /// [`CommandSender::flush`].
    ///
    /// # Errors
    /// `Overflow` when the queue is full, `TooLong`, or `Corrupt`: the command was not taken.
    pub fn send(&mut self, command: &T) -> Result<(), LinkError> {
        let len = match postcard::to_slice(command, &mut self.scratch) {
            Ok(encoded) => encoded.len(),
            Err(_) => {
                self.scratch.zeroize();
                return Err(LinkError::TooLong);
            }
        };
        let taken = self.take(len);
        self.scratch[..len].zeroize();
        taken
    }

    /// Moves queued commands into the ring; true when none is left. While some are left, the consumer rings our bell
    /// when it has made room.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn flush(&mut self) -> Result<bool, LinkError> {
        if self.queue.is_empty() {
            return Ok(true);
        }
        if self.push_queued()? {
            return Ok(true);
        }
        self.producer.want_room();
        if self.push_queued()? {
            self.producer.has_room();
            return Ok(true);
        }
        Ok(false)
    }

    /// Commands that wait at this end.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Takes the first `len` bytes of the scratch buffer as the next command.
    fn take(&mut self, len: usize) -> Result<(), LinkError> {
        if self.flush()? {
            match self.producer.push(&self.scratch[..len]) {
                Ok(()) => {
                    self.consumer.ring_if_asleep();
                    return Ok(());
                }
                Err(PushError::Full) => {}
                Err(PushError::BadLength) => return Err(LinkError::TooLong),
                Err(PushError::Corrupt(corrupt)) => return Err(corrupt.into()),
            }
        }
        if self.queue.len() >= self.bound.messages || self.queued_bytes + len > self.bound.bytes {
            return Err(LinkError::Overflow);
        }
        self.queue.push_back(Zeroizing::new(self.scratch[..len].to_vec()));
        self.queued_bytes += len;
        self.flush().map(|_| ())
    }

    /// Pushes until the queue is empty (true) or the ring is full (false).
    fn push_queued(&mut self) -> Result<bool, LinkError> {
        let before = self.queue.len();
        let outcome = loop {
            let Some(next) = self.queue.front() else {
                break Ok(true);
            };
            match self.producer.push(next) {
                Ok(()) => {
                    self.queued_bytes -= next.len();
                    self.queue.pop_front();
                }
                Err(PushError::Full) => break Ok(false),
                Err(PushError::BadLength) => break Err(LinkError::TooLong),
                Err(PushError::Corrupt(corrupt)) => break Err(corrupt.into()),
            }
        };
        if self.queue.len() != before {
            self.consumer.ring_if_asleep();
        }
        outcome
    }
}

/// The receiving end of a command channel.
pub struct CommandReceiver<T> {
    consumer: Consumer<Region>,
    producer: Remote,
    scratch: Vec<u8>,
    _message: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> CommandReceiver<T> {
    pub(crate) fn new(region: Region, spec: RingSpec, producer: Remote) -> Self {
        let consumer = Consumer::new(region, spec.max_message);
        CommandReceiver { consumer, producer, scratch: Vec::new(), _message: PhantomData }
    }

    /// The next command, or `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`.
    pub fn recv(&mut self) -> Result<Option<T>, LinkError> {
        let Some(len) = self.consumer.pop(&mut self.scratch)? else {
            return Ok(None);
        };
        if self.consumer.room_wanted() {
            self.producer.ring_if_asleep();
        }
        let decoded = decode(&self.scratch[..len]);
        self.scratch[..len].zeroize();
        decoded.map(Some)
    }

    /// Whether [`CommandReceiver::recv`] has something to say, be it an error.
    pub fn is_ready(&self) -> bool {
        self.consumer.is_ready()
    }
}

/// The sending end of a datagram channel. What does not fit is dropped and counted. Does not allocate.
pub struct DatagramSender {
    producer: Producer<Region>,
    consumer: Remote,
    scratch: Box<[u8; SLOT_PAYLOAD]>,
    dropped: u64,
    corrupt: bool,
}

impl DatagramSender {
    pub(crate) fn new(region: Region, spec: RingSpec, consumer: Remote) -> Self {
        DatagramSender {
            producer: Producer::new(region, spec.max_message),
            consumer,
            scratch: Box::new([0; SLOT_PAYLOAD]),
            dropped: 0,
            corrupt: false,
        }
    }

    /// Sends a datagram. False: it was dropped and counted, because the ring is full, the datagram is longer than
    /// [`MAX_DATAGRAM`], or the other side broke the ring.
    pub fn send(&mut self, datagram: &Datagram<'_>) -> bool {
        let sent = self.try_send(datagram);
        self.dropped += u64::from(!sent);
        sent
    }

    /// Datagrams dropped here so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the other side was caught breaking the ring.
    pub(crate) fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    fn try_send(&mut self, datagram: &Datagram<'_>) -> bool {
        if datagram.bytes.len() > MAX_DATAGRAM {
            return false;
        }
        let Ok(encoded) = postcard::to_slice(datagram, &mut self.scratch[..]) else {
            return false;
        };
        match self.producer.push(encoded) {
            Ok(()) => {
                self.consumer.ring_if_asleep();
                true
            }
            Err(PushError::Full | PushError::BadLength) => false,
            Err(PushError::Corrupt(_)) => {
                self.corrupt = true;
                false
            }
        }
    }
}

/// The receiving end of a datagram channel. Does not allocate.
pub struct DatagramReceiver {
    consumer: Consumer<Region>,
    scratch: Vec<u8>,
}

impl DatagramReceiver {
    pub(crate) fn new(region: Region, spec: RingSpec) -> Self {
        DatagramReceiver {
            consumer: Consumer::new(region, spec.max_message),
            scratch: Vec::with_capacity(spec.max_message),
        }
    }

    /// The next datagram, or `None` when there is none. It lies in a private buffer until the next call.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`.
    pub fn recv(&mut self) -> Result<Option<Datagram<'_>>, LinkError> {
        if self.fetch()? { self.fetched().map(Some) } else { Ok(None) }
    }

    /// Whether [`DatagramReceiver::recv`] has something to say, be it an error.
    pub fn is_ready(&self) -> bool {
        self.consumer.is_ready()
    }

    /// First half of [`DatagramReceiver::recv`]: copies the next message out, when there is one.
    pub(crate) fn fetch(&mut self) -> Result<bool, LinkError> {
        Ok(self.consumer.pop(&mut self.scratch)?.is_some())
    }

    /// Second half: what was copied out last.
    pub(crate) fn fetched(&self) -> Result<Datagram<'_>, LinkError> {
        let datagram: Datagram<'_> = decode(&self.scratch)?;
        if datagram.bytes.len() > MAX_DATAGRAM {
            return Err(LinkError::Garbage);
        }
        Ok(datagram)
    }
}

/// One whole message and nothing behind it.
fn decode<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, LinkError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(LinkError::Garbage),
    }
}

#[cfg(test)]
mod tests;
