//! OpenVPN, point to point over TLS, AES-256-GCM, with certificates of this run; in user space, or with the kernel's data
//! channel where both are there.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::{Place, READY, Running, TUNNEL_MTU, configure};
use crate::bench::child::Child;
use crate::bench::net::{End, Ground};

/// What it says when the tunnel stands.
const COMPLETED: &str = "Initialization Sequence Completed";

pub(super) fn raise(
    program: PathBuf,
    kernel: bool,
    ground: &Ground,
    place: &Place,
    stop: &AtomicBool,
) -> io::Result<Running> {
    let authority = Authority::new().map_err(io::Error::other)?;
    let mut children = Vec::new();
    for end in [End::B, End::A] {
        let config = authority.issue(end).map(|identity| profile(end, kernel, place, &authority.cert, &identity));
        let mut command = Command::new(&program);
        // Nothing of a run stands in a file: no key, no certificate.
        command.args(["--config", "stdin"]);
        let config = config.map_err(io::Error::other)?;
        children.push(Child::start(ground.end(end), command, place.cpus(end), &config, false)?);
    }
    configure(ground, place, &mut children, stop)?;
    for child in &mut children {
        child.wait_line(|line| line.contains(COMPLETED).then_some(()), READY, stop)?;
    }
    let kind = ground.end(End::A).kind(&place.device()).unwrap_or_default();
    if kernel && !kind.starts_with("ovpn") {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "OpenVPN did not use the kernel's data channel (module ovpn of Linux 6.16 with OpenVPN 2.7, or package \
             openvpn-dco-dkms with 2.6)",
        ));
    }
    let offloads = format!("AES-256-GCM, device {kind}; {}", place.pinning());
    Ok(Running { offloads, addresses: place.addresses(), in_user_space: !kernel, children, _home: None })
}

/// The kernel's share of the work is not these processes' time, but what they do is told all the same.
fn profile(end: End, kernel: bool, place: &Place, ca: &str, (cert, key): &(String, String)) -> String {
    let role = if end == End::B { "tls-server\ndh none" } else { "tls-client" };
    let mut text = format!(
        "mode p2p\n{role}\ndev {}\ndev-type tun\nproto udp4\nlocal {}\nremote {}\nport {port}\n\
         cipher AES-256-GCM\ndata-ciphers AES-256-GCM\nauth SHA256\ntun-mtu {TUNNEL_MTU}\nmssfix 0\nverb 3\n\
         reneg-sec 0\nconnect-retry 1 1\nifconfig-noexec\n",
        place.device(),
        end.outer(),
        end.other().outer(),
        port = place.port(),
    );
    if !kernel {
        text.push_str("disable-dco\n");
    }
    let _ = write!(text, "<ca>\n{ca}</ca>\n<cert>\n{cert}</cert>\n<key>\n{key}</key>\n");
    text
}

/// A certificate authority of one run.
struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Result<Authority, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = named("minivpn bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key)?.pem();
        Ok(Authority { cert, issuer: Issuer::new(params, key) })
    }

    /// A certificate with its key, both PEM.
    fn issue(&self, end: End) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let name = if end == End::A { "a" } else { "b" };
        let cert = named(name).signed_by(&key, &self.issuer)?.pem();
        Ok((cert, key.serialize_pem()))
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_profiles_are_each_others_counterpart() {
        let place = Place { number: 3, a: vec![0], b: vec![1] };
        let identity = ("CERT".to_owned(), "KEY".to_owned());
        let (a, b) = (End::A, End::B);
        let texts = [a, b].map(|end| profile(end, false, &place, "CA", &identity));
        assert!(texts[0].contains("tls-client") && texts[1].contains("tls-server"));
        assert!(texts[0].contains("local 192.0.2.1\nremote 192.0.2.2\n"));
        assert!(texts[1].contains("local 192.0.2.2\nremote 192.0.2.1\n"));
        assert!(texts.iter().all(|text| text.contains("disable-dco")));
        assert!(!profile(a, true, &place, "CA", &identity).contains("disable-dco"));
    }
}
