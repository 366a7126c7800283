//! An HTTP GET through a tunnel, over a TCP/IP stack in user space: nothing of the host is used but a UDP socket, so it needs no
//! privilege.
//!
//! ```text
//! cargo run --example http_get -- office.ovpn 10.8.0.1 80 /index.html
//! ```

use std::error::Error;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;

use minivpn::{Options, Parameters, Tunnel, load_profile};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, profile, host, port, path] = arguments.as_slice() else {
        return Err("usage: http_get PROFILE ADDRESS PORT PATH".into());
    };
    let (host, port): (IpAddr, u16) = (host.parse()?, port.parse()?);
    let tunnel = Tunnel::connect_blocking(load_profile(profile)?, Options::default())?;
    eprintln!("tunnel up after {:?}, {}", tunnel.parameters().handshake, tunnel.parameters().cipher);
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = exchange(&tunnel, host, port, request.as_bytes())?;
    std::io::stdout().write_all(&answer)?;
    tunnel.close_blocking()?;
    Ok(())
}

/// Says `request` to a TCP server behind the tunnel; what it answers until it closes.
fn exchange(tunnel: &Tunnel, host: IpAddr, port: u16, request: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut wire = Wire { tunnel };
    let mut stack = stack(&mut wire, tunnel.parameters());
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
    // A local port that a server which remembers the last run does not know.
    let local = 49_152 + u16::try_from(std::process::id() % 16_384)?;
    sockets.get_mut::<tcp::Socket>(handle).connect(stack.context(), (host, port), local)?;
    let (mut unsent, mut answer) = (request, Vec::new());
    loop {
        stack.poll(Instant::now(), &mut wire, &mut sockets);
        let socket = sockets.get_mut::<tcp::Socket>(handle);
        if socket.may_send() && !unsent.is_empty() {
            unsent = &unsent[socket.send_slice(unsent)?..];
        }
        while socket.can_recv() {
            socket.recv(|bytes| {
                answer.extend_from_slice(bytes);
                (bytes.len(), ())
            })?;
        }
        if !socket.is_active() && unsent.is_empty() {
            return Ok(answer);
        }
        if !socket.is_open() {
            return Err(format!("{host}:{port} refuses the connection").into());
        }
        if !socket.may_recv() && unsent.is_empty() && socket.may_send() {
            socket.close();
        }
        let pause = stack.poll_delay(Instant::now(), &sockets).map(Into::into);
        wait(tunnel, pause)?;
    }
}

/// A stack with the addresses that the server gave.
fn stack(wire: &mut Wire<'_>, parameters: &Parameters) -> Interface {
    let mut stack = Interface::new(Config::new(HardwareAddress::Ip), wire, Instant::now());
    let v4 = parameters.ipv4.map(|inner| IpCidr::new(IpAddr::V4(inner.address).into(), inner.prefix));
    let v6 = parameters.ipv6.map(|inner| IpCidr::new(IpAddr::V6(inner.address).into(), inner.prefix));
    stack.update_ip_addrs(|addresses| {
        for address in v4.into_iter().chain(v6) {
            // There is room for two.
            let _ = addresses.push(address);
        }
    });
    // Everything goes into the tunnel, which has no link layer: any gateway will do.
    if let Some(inner) = parameters.ipv4 {
        let _ = stack.routes_mut().add_default_ipv4_route(inner.gateway.unwrap_or(inner.address));
    }
    if let Some(inner) = parameters.ipv6 {
        let _ = stack.routes_mut().add_default_ipv6_route(inner.address);
    }
    stack
}

/// Waits for a packet, or until the stack wants its next turn.
fn wait(tunnel: &Tunnel, pause: Option<std::time::Duration>) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let pause = pause.map(|pause| Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: pause.subsec_nanos().into(),
    });
    poll(&mut [PollFd::new(&tunnel.as_fd(), PollFlags::IN)], pause.as_ref())?;
    Ok(())
}

/// The tunnel as the stack's device.
struct Wire<'t> {
    tunnel: &'t Tunnel,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let mut packet = vec![0; usize::from(self.tunnel.parameters().mtu)];
        // A tunnel that has ended has no packets; the stack's connections time out then.
        let length = self.tunnel.try_recv(&mut packet).ok()??;
        packet.truncate(length);
        Some((Received(packet), Sending(self.tunnel)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(self.tunnel))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.tunnel.parameters().mtu);
        capabilities
    }
}

/// A packet that came.
struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Leave to send one packet.
struct Sending<'t>(&'t Tunnel);

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let done = f(&mut packet);
        // What finds no room is lost, as on any link, and TCP sends it again.
        let _ = self.0.try_send(&packet);
        done
    }
}
