//! Bytes between a client's socket and a connection through the tunnel, copied once each way: the kernel reads from and writes to
//! the connection's own buffers. One side's end is passed on as an end, its failure as a reset.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::connection::{Connection, Moved};

/// How long a connection of which one direction is closed may be silent. A client that is gone looks like one that only listens.
const HALF_OPEN: Duration = Duration::from_secs(600);

/// Bytes that were relayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Relayed {
    /// From the client.
    pub up: u64,
    /// To the client.
    pub down: u64,
}

/// Relays until both directions are closed or one breaks. `early` is what the client sent before it knew that it is connected.
pub(super) async fn relay(client: TcpStream, connection: Connection, early: &[u8]) -> Relayed {
    let (up, down) = (Cell::new(0), Cell::new(0));
    let ended = both(&client, &connection, early, &up, &down).await;
    if ended.is_err() {
        connection.abort();
        // A reset, so that nobody takes half an answer for a whole one.
        let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
    }
    Relayed { up: up.get(), down: down.get() }
}

async fn both(
    client: &TcpStream,
    connection: &Connection,
    early: &[u8],
    up: &Cell<u64>,
    down: &Cell<u64>,
) -> io::Result<()> {
    let upward = async {
        write_all(connection, early, up).await?;
        upwards(client, connection, up).await
    };
    let downward = downwards(client, connection, down);
    tokio::pin!(upward, downward);
    tokio::select! {
        ended = &mut upward => { ended?; last(downward, down).await }
        ended = &mut downward => { ended?; last(upward, up).await }
    }
}

/// The second direction, which must not stay silent for long.
async fn last(direction: impl Future<Output = io::Result<()>>, moved: &Cell<u64>) -> io::Result<()> {
    tokio::pin!(direction);
    loop {
        let before = moved.get();
        match tokio::time::timeout(HALF_OPEN, &mut direction).await {
            Ok(ended) => return ended,
            Err(_) if moved.get() == before => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}

async fn write_all(connection: &Connection, mut bytes: &[u8], moved: &Cell<u64>) -> io::Result<()> {
    while !bytes.is_empty() {
        connection.writable().await;
        let written = connection.write_with(|room| {
            let count = room.len().min(bytes.len());
            if let (Some(room), Some(bytes)) = (room.get_mut(..count), bytes.get(..count)) {
                room.copy_from_slice(bytes);
            }
            (count, count)
        });
        match written {
            Moved::Asked(count) => {
                add(moved, count);
                bytes = bytes.get(count..).unwrap_or_default();
            }
            Moved::Nothing => {}
            Moved::Finished | Moved::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
    Ok(())
}

async fn upwards(client: &TcpStream, connection: &Connection, moved: &Cell<u64>) -> io::Result<()> {
    loop {
        connection.writable().await;
        client.readable().await?;
        let read = connection.write_with(|room| {
            let read = client.try_read(room);
            (*read.as_ref().unwrap_or(&0), read)
        });
        match read {
            Moved::Asked(Ok(0)) => {
                connection.finish();
                return Ok(());
            }
            Moved::Asked(Ok(count)) => add(moved, count),
            Moved::Asked(Err(error)) => again(error)?,
            Moved::Nothing => {}
            Moved::Finished | Moved::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

async fn downwards(client: &TcpStream, connection: &Connection, moved: &Cell<u64>) -> io::Result<()> {
    loop {
        connection.readable().await;
        client.writable().await?;
        let written = connection.read_with(|bytes| {
            let written = client.try_write(bytes);
            (*written.as_ref().unwrap_or(&0), written)
        });
        match written {
            Moved::Asked(Ok(count)) => add(moved, count),
            Moved::Asked(Err(error)) => again(error)?,
            Moved::Nothing => {}
            Moved::Finished => {
                // It may be that the client is gone already, which the other direction says.
                let _ = SockRef::from(client).shutdown(Shutdown::Write);
                return Ok(());
            }
            Moved::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

fn again(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}

fn add(moved: &Cell<u64>, count: usize) {
    moved.set(moved.get().saturating_add(count as u64));
}
