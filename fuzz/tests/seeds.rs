//! The seeds of the corpus, written down: what each of them is made of. The committed files are exactly these; more
//! files beside them (found by libFuzzer, or from a failure) are welcome. To write them after a change here:
//!
//! ```text
//! WRITE_SEEDS=1 cargo test -p fuzz --test seeds
//! ```

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking

use std::path::Path;

use controlplane::Secret;
use controlplane::controlchannel::key_method::{ClientKeyMethod, ClientSource, ServerKeyMethod, ServerSource};

type Seed = (&'static str, &'static str, Vec<u8>);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// As the wire has them.
fn control_packets() -> Vec<Seed> {
    let sid = "6891923fa3103437";
    [
        ("client_reset", format!("38 {sid} 00 00000000")),
        ("server_reset", format!("40 {sid} 01 00000000 eafebfa4418ae31b 00000000")),
        ("control", format!("20 {sid} 02 00000001 00000002 eafebfa4418ae31b 00000003 160301")),
        ("ack", format!("29 {sid} 01 00000007 eafebfa4418ae31b")),
        ("eight_acks", format!("28 {sid} 08 {} eafebfa4418ae31b", "00000009".repeat(8))),
        ("soft_reset", format!("19 {sid} 00 00000000")),
        ("no_session", "38 0000000000000000 00 00000000".into()),
    ]
    .into_iter()
    .map(|(name, text)| ("control_packet", name, hex(&text)))
    .collect()
}

/// The protection, then: a stranger's datagram; seal and open; seal and damage.
fn wraps() -> Vec<Seed> {
    let stranger = "00 0e 38 6891923fa3103437 00 00000000";
    let sealed = "01 0100 20 00 02 eafebfa4418ae31b 0300 03 160301";
    let reset = "01 0200 38 00 00 0000000000000000 0000 00";
    let damaged = "02 4000 20 00 01 eafebfa4418ae31b 0300 03 160301";
    let all = format!("{stranger}{sealed}{reset}{damaged}{sealed}");
    [("none", "00"), ("tls_auth_both_ways", "01"), ("tls_auth_sha512", "0e"), ("tls_crypt", "03")]
        .into_iter()
        .map(|(name, choice)| ("wrap", name, hex(&format!("{choice}{all}"))))
        .collect()
}

fn key_methods() -> Vec<Seed> {
    let client = |username: &str, peer_info: &str| {
        ClientKeyMethod {
            source: ClientSource { pre_master: [1; 48], random1: [2; 32], random2: [3; 32] },
            options: "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,key-method 2".into(),
            username: username.into(),
            password: Secret(b"secret".to_vec()),
            peer_info: peer_info.into(),
        }
        .encode()
        .unwrap()
    };
    let source = ServerSource { random1: [4; 32], random2: [5; 32] };
    let server = ServerKeyMethod { source, options: "V4,dev-type tun,tls-server".into() }.encode().unwrap();
    let followed = [&server[..server.len() - 6], b"PUSH_REPLY,ping 10\0"].concat();
    vec![
        ("key_method", "client", client("user", "IV_VER=2.6.14\nIV_PROTO=990\n")),
        ("key_method", "client_bare", client("", "")),
        ("key_method", "server_then_message", followed),
        ("key_method", "server", server),
    ]
}

/// The piece length, then lines that end with NUL.
fn pushes() -> Vec<Seed> {
    let seed = |name, piece: u8, text: &str| ("push", name, [&[piece], text.as_bytes()].concat());
    vec![
        seed(
            "usual",
            255,
            "PUSH_REPLY,route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,\
             ifconfig 10.8.0.2 255.255.255.0,ifconfig-ipv6 fd00::2/64 fd00::1,route 10.1.0.0 255.255.0.0,\
             route-ipv6 fd01::/48,redirect-gateway def1 bypass-dhcp,dhcp-option DNS 10.8.0.1,dhcp-option DOMAIN a.test,\
             peer-id 3,cipher AES-256-GCM,protocol-flags cc-exit tls-ekm,tun-mtu 1400\0",
        ),
        seed(
            "in_two_parts",
            7,
            "PUSH_REPLY,route 10.1.0.0 255.255.0.0,push-continuation 2\0PUSH_REPLY,ping 5,push-continuation 1\0",
        ),
        seed("filtered", 64, "PUSH_REPLY,route 10.66.1.0 255.255.255.0,block-outside-dns,comp-lzo yes,mssfix 1300\0"),
        seed(
            "strange",
            1,
            "PUSH_REPLY,\"un closed,setenv UV x,ifconfig 300.1.1.1 x,route,dhcp-option,tun-mtu 9,auth-token SESS,\
             auth-token-user dXNlcg==,peer-id 16777215,inactive 600 1000,explicit-exit-notify 2\0",
        ),
        seed(
            "other_messages",
            9,
            "AUTH_FAILED,TEMP[backoff 5,advance no]:later\0AUTH_FAILED,SESSION:expired\0AUTH_PENDING,timeout 60\0\
             RESTART,[N]later\0HALT,bye\0EXIT\0INFO,hello\0INFO_PRE,OPEN_URL:https://a.test\0\u{7}\0\r\n\0what\0",
        ),
    ]
}

fn profiles() -> Vec<Seed> {
    let start = "client\ndev tun\nproto udp\nremote vpn.example.com 1194\nremote-cert-tls server\n";
    let key: String = "00112233445566778899aabbccddeeff\n".repeat(16);
    let key = format!("-----BEGIN OpenVPN Static key V1-----\n{key}-----END OpenVPN Static key V1-----\n");
    let cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let inline = format!("{start}auth-user-pass\n<ca>\n{cert}</ca>\nkey-direction 1\n<tls-auth>\n{key}</tls-auth>\n");
    let connections = "ca ca.crt\nauth-user-pass pass.txt\n<connection>\nremote 192.0.2.1 443 udp4\nmssfix 1300\n\
        </connection>\n<connection>\nremote fd00::1 1194 udp6\nexplicit-exit-notify 3\n</connection>\n";
    let tunnel = "ca ca.crt\nauth-user-pass\nroute 10.0.0.0 255.0.0.0 net_gateway 5\nredirect-gateway def1 ipv6\n\
        ifconfig 10.8.0.2 255.255.255.0\ntopology subnet\ntun-mtu 1400\nkeepalive 10 60\nreneg-sec 3600 3000\n\
        data-ciphers AES-256-GCM:AES-128-GCM\nauth SHA256\ncipher AES-256-CBC\nverb 4\nreplay-window 128 30\n\
        pull-filter ignore \"route \"\nsetenv opt block-outside-dns\nverify-x509-name server name\nuser nobody\n";
    let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let identity = format!("dev tun\nca ca.crt\ncert ca.crt\n<key>\n{pem}</key>\nkeepalive 10 60\n");
    let server = format!(
        "server 10.8.0.0 255.255.255.0\nserver-ipv6 fd00::/64\ntopology subnet\n{identity}push \"route 10.1.0.0 255.255.0.0\"\n\
         push-remove ping\nclient-to-client\nmax-clients 100\nscript-security 2\nauth-user-pass-verify \"/bin/x 'a b'\" via-file\n\
         auth-gen-token 3600 600 external-auth\nverify-client-cert optional\nstatus status.log 10\nstatus-version 2\n"
    );
    let bare = format!(
        "mode server\ntls-server\nifconfig 10.9.0.1 10.9.0.2\nifconfig-pool 10.9.0.4 10.9.0.250\nroute 10.9.0.0 255.255.255.0\n\
         ifconfig-ipv6 fd00::1/64 fd00::2\nifconfig-ipv6-pool fd00::1000/64\n{identity}duplicate-cn\nclient-config-dir ccd\n"
    );
    let one_client = "ifconfig-push 10.8.0.6 255.255.255.0\nifconfig-ipv6-push fd00::6/64\niroute 10.1.0.0 255.255.0.0\n\
        iroute-ipv6 fd01::/64\npush-remove \"route 10\"\npush \"ping 5\"\npush-reset\ndisable\nping 5\n";
    let seed = |name, parts: &[&str]| {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        ("profile", name, parts.join(&0xFF))
    };
    vec![
        seed("inline", &[&inline]),
        seed("connections", &[&format!("{start}{connections}"), "", cert, &key, "me\nhunter2\n"]),
        seed("tunnel", &[&format!("{start}{tunnel}")]),
        seed(
            "included",
            &[&format!("{start}config included.conf\nconfig p.ovpn\n"), "verb 3\nca ca.crt\nauth-user-pass\n"],
        ),
        seed(
            "with_files",
            &[&format!("{start}ca ca.crt\ntls-crypt ta.key\nauth-user-pass pass.txt\n"), "", cert, &key, "a\nb\n"],
        ),
        seed(
            "mistakes",
            &["remot a\nremote\n<ca>\nnever closed\n\"open\nverb 99\n\u{1b}[31m x\ncomp-lzo\n\\x \\\" 'a b'\n"],
        ),
        seed("server", &[&server]),
        seed("server_without_helpers", &[&bare]),
        seed("one_client", &[one_client]),
        seed("unprintable_tag", &["<c\u{1b}[31ma>\nx\n</\u{7}>\n"]),
        seed("not_utf8", &["client\n# ", "\n"]),
    ]
}

/// A byte of settings, then: a sealed packet is `01` (`02 count` for a train of equal ones), the packet and how it is
/// numbered; a packet is its shape, flow, step, TCP flags, window and payload length.
fn inbounds() -> Vec<Seed> {
    let tcp = |step: u8| format!("01 00 00 {step:02x} 10 ff 6400 00 00");
    let udp = "02 08 02 00 00 00 00 e803 00 00";
    let v6 = "01 01 01 01 18 ff 0a00 00 00";
    let steps: String = (1..9).map(tcp).collect();
    let syn = "01 04 00 00 02 ff 0000 04 020405b4 00 00";
    let in_band = "03 00 00 00  03 01 00 00  03 02 00 00  03 03 00 00";
    let damaged = "01 00 00 01 10 ff 6400 04 00 2000";
    let replayed = "01 00 00 01 10 ff 6400 03 01";
    let moved = "01 00 00 01 10 ff 6400 08 00";
    let raw = "00 00 0a 48000005000000010203  00 00 09 386891923fa3103437  00 01 02 3031";
    [
        ("a_flow", format!("00 {steps} 05 {steps}")),
        ("datagrams_and_v6", format!("00 {udp} {v6} {udp} 05")),
        ("clamped_syn", format!("04 {syn} {v6}")),
        ("in_band", format!("01 {in_band} {steps}")),
        ("damaged_replayed_moved", format!("08 {steps}{damaged}{replayed}{moved}{steps}")),
        ("not_sealed", format!("00 {raw} {steps}")),
        ("tight_limits", format!("20 {}{damaged}04 e803 {steps}", damaged.repeat(6))),
        (
            "raw_inner",
            "10 01 80 06 450000060000 00 00  01 80 00 00 00  01 08 01 01 10 ff 6400 0200 ff 0300 00 00 00".into(),
        ),
    ]
    .into_iter()
    .map(|(name, text)| ("inbound", name, hex(&text)))
    .collect()
}

/// A byte of settings, then frames: how the header is made, gso_size, (the header, if it is not made), the packet.
fn outbounds() -> Vec<Seed> {
    let tcp = "01 6400 00 00 01 18 ff e803";
    let v6 = "01 6400 01 01 01 11 ff e803";
    let udp = "01 6400 02 02 00 00 00 e803";
    let plain = "0d 0000 00 00 01 10 ff 6400";
    let checksum = "09 0000 00 00 01 10 ff 6400";
    let syn = "0d 0000 04 00 00 02 ff 0000 04 020405b4";
    let huge = "01 7805 00 00 01 10 ff 3075";
    let odd = "00 0000 01010000640014001000 00 00 01 10 ff e803  0d 0000 80 04 45000004  01 0100 00 00 01 10 ff e803";
    [
        ("super_packets", format!("00 {tcp}{v6}{udp}")),
        ("single", format!("04 {plain}{checksum}{syn}")),
        ("batch_full", format!("00 {}", huge.repeat(5))),
        ("odd_headers", format!("01 {odd}")),
        ("tight_limits", format!("20 {}", tcp.repeat(8))),
        ("without_gso", format!("c0 {tcp}{udp}{huge}")),
        ("trailing", format!("00 25 0000 00 00 01 10 ff 6400  5d 0000 00 00 01 10 ff 6400 {tcp}")),
    ]
    .into_iter()
    .map(|(name, text)| ("outbound", name, hex(&text)))
    .collect()
}

/// Frames: how, segment size, then a packet's how and the packet.
fn splits() -> Vec<Seed> {
    [
        ("tcp4", "01 6400 08 00 00 01 18 ff e803".into()),
        ("tcp6", "01 0705 08 01 40 01 91 ff 102b".into()),
        ("udp4_udp6", "01 6400 08 02 00 00 00 00 e803 01 6300 08 03 00 00 00 00 e803".into()),
        ("options", "01 6400 09 00 00 01 10 ff e803 09 01 6400 09 01 00 01 10 ff e803 02 01 6400 09 07 00 00 00 00 00 e803 03".into()),
        ("checksum_only", "05 0000 08 00 00 01 10 ff 6400 05 0000 08 03 00 00 00 00 6400 05 0000 09 03 00 00 00 00 6400 01".into()),
        ("trailing_and_short", "51 6400 08 00 00 01 10 ff e803 59 6400 08 00 00 01 10 ff e803".into()),
        ("odd_headers", "00 6400 01010000640014001000 00 00 00 00 01 10 ff e803 00 0000 01050000640014000600 00 02 00 00 00 00 e803".into()),
        ("changed", "01 6400 0a 00 00 01 10 ff e803 02 01 03 08 05".into()),
        ("tcp_options", "01 6400 08 04 00 01 10 ff 0c 0101080a0000000100000002 e803".into()),
    ]
    .into_iter()
    .map(|(name, text): (_, String)| ("split", name, hex(&text)))
    .collect()
}

/// A byte of settings, then operations: flush, abandon, a run of segments, single packets.
fn coalesces() -> Vec<Seed> {
    let flows = (1..6).flat_map(|step| [0, 1, 2, 3].map(|flow| format!("03 08 00 {flow:02x} {step:02x} 10 ff 6400")));
    [
        ("run", "00 02 6400 c8 08 00 00 01 10 ff e803".into()),
        ("run_broken", "00 02 6400 03 08 00 00 01 18 ff e803 00 02 6400 02 08 03 00 00 00 00 e803".into()),
        ("flows", format!("00 {}", flows.collect::<String>())),
        ("udp_no_checksum", "00 03 08 02 00 00 00 00 6400 03 0c 02 00 00 00 00 6400 03 08 02 00 00 00 00 6400".into()),
        (
            "fragments",
            "00 03 08 02 00 00 00 00 6400 03 0a 02 00 00 00 00 6400 01 06 20 03 08 02 00 00 00 00 6400".into(),
        ),
        (
            "abandoned",
            "00 03 08 00 00 01 10 ff 6400 01 6400 01 6500 03 08 00 00 02 10 ff 6400 01 b80b 03 08 00 00 03 10 ff 6400"
                .into(),
        ),
        ("switches", "1f 02 6400 c8 08 00 00 01 10 ff e803".into()),
        ("no_tso6", "04 02 6400 c8 08 01 00 01 10 ff e803 02 6400 c8 08 00 00 01 10 ff e803".into()),
        (
            "options_and_ecn",
            "00 02 6400 c8 09 00 00 01 10 ff e803 03 02 6400 c8 0a 01 00 01 10 ff e803 01 01 30".into(),
        ),
        (
            "huge",
            "00 02 e803 c8 08 00 00 01 10 ff 309b 02 e803 c8 08 00 00 28 10 ff e803 02 4000 c8 08 02 00 00 00 00 f055"
                .into(),
        ),
        ("raw", "00 03 00 80 14 450000140000000040060000 0a000001 0a000002 03 00 80 04 60000000".into()),
    ]
    .into_iter()
    .map(|(name, text): (_, String)| ("coalesce", name, hex(&text)))
    .collect()
}

/// A byte of settings, then operations; `00 1f` is an honest exchange of 31 datagrams each way.
fn clients() -> Vec<Seed> {
    let established = "00 1f 0b 0f00 00 1f 0b 0f00 00 1f";
    [
        ("handshake", format!("00 {established} 00 1f")),
        ("tls_auth", format!("02 {established}")),
        ("tls_crypt", format!("03 {established} 03 1400 01 04 0000 00")),
        ("wrong_password", format!("80 0d 01 {established} 0d 00 {established}")),
        ("renegotiated", format!("00 {established} 0f 00 00 00 1f 0f 01 01 00 1f 0b 1027 00 1f")),
        ("resumed", format!("03 {established} 0e 06 00 00 1f 0e 02 01 00 1f 0e 03 00 00 1f")),
        ("reneg_sec", format!("20 {established} 0b e803 00 1f 0b e803 00 1f")),
        ("disconnected", format!("00 {established} 0f 04 00 00 1f 0b 1400 0d 00 00 1f")),
        ("dismissed", format!("00 {established} 0f 03 01 00 1f 0b 6400")),
        ("lossy", "03 00 02 05 06 0b 1400 00 01 07 00 05 05 0b 1400 00 1f 06 0b 2800 00 1f 0b 0f00 00 1f".into()),
        (
            "forged",
            format!(
                "00 00 02 0a 20 05 00 00000001 0a 28 0d 01 00000000 0000000000000001 {established} 0a 19 05 00 00000000"
            ),
        ),
        ("key_events", format!("00 {established} 0c 01 01 0c 03 01 0c 07 01 0c 00 03 00 1f")),
        ("unanswered", "00 0b 5802 0d 00 0b 1400 0b 1400".into()),
        ("not_pulling", format!("1c {established}")),
        ("strangers", "00 08 05 4000000000 09 0e 386891923fa31034370000000000 09 00".into()),
    ]
    .into_iter()
    .map(|(name, text)| ("client", name, hex(&text)))
    .collect()
}

/// A byte of settings, then operations, as `server.rs` numbers them.
fn servers() -> Vec<Seed> {
    let three = "0300 0301 0302 001f 090f00 001f 090f00 001f 001f 001f";
    [
        ("three_clients", format!("00 {three}")),
        ("three_clients_tls_crypt", format!("03 {three}")),
        ("forged", format!("03 {three} 0838 05c8 0500 00000000 0828 05c8 0d01 00000000 0909090909090909")),
        ("floats", format!("00 {three} 0d0003 0d0102 0d0001 0d0705")),
        ("judged", "02 0300 0011 0b0100 0301 0011 0b0000 0011 0b0207".to_owned()),
        ("renegotiated", format!("00 {three} 0c0000 001f 0c0300 001f")),
        ("dismissed", format!("00 {three} 0c0100 0c0201 090a00 001f 0300 001f")),
        ("reloaded", format!("00 {three} 0c0401 0300 001f")),
        ("resumed", format!("00 {three} 0e0f00 00 001f 0e0710 01 001f")),
        ("keys", "00 0300 0008 0a0000 00 0a8105 01 000f".to_owned()),
    ]
    .into_iter()
    .map(|(name, text)| ("server", name, hex(&text)))
    .collect()
}

#[test]
fn the_corpus_holds_every_seed() {
    let all = [
        control_packets(),
        wraps(),
        key_methods(),
        pushes(),
        profiles(),
        inbounds(),
        outbounds(),
        splits(),
        coalesces(),
        clients(),
        servers(),
    ];
    for (target, name, bytes) in all.concat() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let file = folder.join(name);
        if std::env::var_os("WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&file).is_ok_and(|found| found == bytes),
            "{} is not as it is written here",
            file.display()
        );
    }
}
