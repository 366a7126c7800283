//! What the kernel dropped on either side of the worker, added up over sockets and devices that come and go. Read by the
//! supervisor; the worker is not disturbed.

use dataplane::sys::socket::{SocketWatch, WireSocket};

use crate::observe::statistics::Lost;

/// The sums.
#[derive(Debug, Default)]
pub(super) struct Losses {
    socket: Option<SocketWatch>,
    socket_read: u32,
    /// The interface, and its counter when it was last read.
    tun: Option<(u32, u64)>,
    lost: Lost,
}

impl Losses {
    /// From now on this socket is in use; what the one before dropped is kept.
    pub(super) fn watch(&mut self, socket: &WireSocket) {
        self.read_socket();
        // Without a descriptor to spare its drops stay unknown.
        self.socket = socket.watch().ok();
        self.socket_read = 0;
    }

    /// Lets the socket go: while it is watched it stays open, and its port taken.
    pub(super) fn release(&mut self) {
        self.read_socket();
        self.socket = None;
    }

    /// The interface's `tx_dropped` is this now. The first reading of an interface is where counting starts.
    pub(super) fn read_tun(&mut self, index: u32, dropped: u64) {
        if let Some((known, before)) = self.tun
            && known == index
        {
            self.lost.tun += dropped.saturating_sub(before);
        }
        self.tun = Some((index, dropped));
    }

    /// The sums now; of the TUN, at its last reading.
    pub(super) fn now(&mut self) -> Lost {
        self.read_socket();
        self.lost
    }

    fn read_socket(&mut self) {
        let Some(Ok(dropped)) = self.socket.as_ref().map(SocketWatch::dropped) else { return };
        self.lost.socket += u64::from(dropped.wrapping_sub(self.socket_read));
        self.socket_read = dropped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::sys::socket::SocketOptions;

    /// A socket whose buffer is full, with a few datagrams dropped.
    fn overrun() -> WireSocket {
        let bind = Some("127.0.0.1:0".parse().unwrap());
        let socket = WireSocket::open(&SocketOptions { bind, receive_buffer: Some(1), ..Default::default() }).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20 {
            sender.send_to(&[0; 2_000], socket.local_addr().unwrap()).unwrap();
        }
        socket
    }

    #[test]
    fn sockets_that_come_and_go_add_up() {
        let mut losses = Losses::default();
        assert_eq!(losses.now(), Lost::default());
        let one = overrun();
        let first = u64::from(one.watch().unwrap().dropped().unwrap());
        assert!(first > 0);
        losses.watch(&one);
        assert_eq!(losses.now().socket, first);
        assert_eq!(losses.now().socket, first, "not twice");
        let two = overrun();
        let second = u64::from(two.watch().unwrap().dropped().unwrap());
        losses.watch(&two);
        assert_eq!(losses.now().socket, first + second);
        losses.release();
        assert_eq!(losses.now().socket, first + second);
    }

    #[test]
    fn a_socket_that_is_released_gives_its_port_back() {
        let bind = Some("127.0.0.1:0".parse().unwrap());
        let socket = WireSocket::open(&SocketOptions { bind, ..Default::default() }).unwrap();
        let address = socket.local_addr().unwrap();
        let mut losses = Losses::default();
        losses.watch(&socket);
        drop(socket);
        assert!(std::net::UdpSocket::bind(address).is_err());
        losses.release();
        std::net::UdpSocket::bind(address).unwrap();
    }

    #[test]
    fn an_interfaces_past_is_not_ours() {
        let mut losses = Losses::default();
        losses.read_tun(3, 100);
        assert_eq!(losses.now().tun, 0);
        losses.read_tun(3, 104);
        losses.read_tun(4, 7);
        losses.read_tun(4, 9);
        assert_eq!(losses.now().tun, 6);
    }
}
