//! What a file seems to be, by how it begins: for a sentence to whoever named the wrong one. Nothing is decided by it but that sentence.

/// So much of a file is looked at for what no text has, in bytes.
const HEAD: usize = 4_096;

/// Beginnings of files that are no text, and what has them.
const MAGIC: [(&[u8], &str); 9] = [
    (b"\x7fELF", "a program"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\xfd7zXZ\0", "an XZ archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    // A SEQUENCE with a length of one or two bytes (X.690, 8.1.3).
    (b"\x30\x82", "a certificate or key in DER or PKCS#12: the text forms (PEM) are read"),
    (b"\x30\x81", "a certificate or key in DER or PKCS#12: the text forms (PEM) are read"),
];

/// The first line that says something, how it begins, and what begins so.
const FIRST_LINE: [(&str, &str); 18] = [
    ("-----BEGIN PRIVATE KEY", "a private key in PEM"),
    ("-----BEGIN RSA PRIVATE KEY", "a private key in PEM"),
    ("-----BEGIN EC PRIVATE KEY", "a private key in PEM"),
    ("-----BEGIN ENCRYPTED PRIVATE KEY", "an encrypted private key in PEM"),
    ("-----BEGIN OPENSSH PRIVATE KEY", "a private key of SSH"),
    ("-----BEGIN CERTIFICATE REQUEST", "a certificate request"),
    ("-----BEGIN CERTIFICATE", "a certificate in PEM"),
    ("Certificate:", "a certificate in PEM"),
    ("-----BEGIN X509 CRL", "a revocation list in PEM"),
    ("-----BEGIN OpenVPN Static key", "an OpenVPN static key (tls-auth, tls-crypt)"),
    ("-----BEGIN OpenVPN tls-crypt-v2", "a tls-crypt-v2 key"),
    ("-----BEGIN DH PARAMETERS", "Diffie-Hellman parameters"),
    ("-----BEGIN", "a file in PEM"),
    ("[Interface]", "a configuration of WireGuard"),
    ("[connection]", "a connection of NetworkManager"),
    ("<!doctype html", "a web page"),
    ("<html", "a web page"),
    ("<?xml", "an XML file"),
];

/// What a file is that is surely no profile, as a phrase; `None` when it may be one.
pub(super) fn like(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(what);
    }
    if bytes.iter().take(HEAD).any(|byte| *byte == 0) {
        return Some("a binary file");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let comment = |line: &[u8]| line.is_empty() || line.starts_with(b"#") || line.starts_with(b";");
    let first = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !comment(line))?;
    let begins = |start: &str| first.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()));
    FIRST_LINE.iter().find(|(start, _)| begins(start)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_profile_is_named() {
        for (content, what) in [
            (&b"\x7fELF\x02\x01"[..], "a program"),
            (b"\x30\x82\x04\x00", "DER or PKCS#12"),
            (b"\xff\xfec\0l\0i\0", "UTF-16"),
            (b"remote x\0y", "a binary file"),
            (b"-----BEGIN PRIVATE KEY-----\nAA==\n", "a private key"),
            (b"# mine\n\n  -----BEGIN CERTIFICATE-----\n", "a certificate in PEM"),
            (b"-----BEGIN CERTIFICATE REQUEST-----\n", "a certificate request"),
            (b"#\n# 2048 bit OpenVPN static key\n#\n-----BEGIN OpenVPN Static key V1-----\n", "static key"),
            (b"-----BEGIN SOMETHING-----\n", "a file in PEM"),
            (b"[Interface]\nPrivateKey = x\n", "WireGuard"),
            (b"\xef\xbb\xbf<!DOCTYPE HTML><html>", "a web page"),
        ] {
            let got = like(content);
            assert!(got.is_some_and(|got| got.contains(what)), "{:?}: {got:?}", String::from_utf8_lossy(content));
        }
    }

    #[test]
    fn what_may_be_a_profile_is_not_guessed_at() {
        let latin = b"# f\xfcr mich\nclient\n";
        for content in [
            &b""[..],
            b"\n\n",
            b"# only\n; comments",
            b"client\nremote x\n",
            b"<ca>\n-----BEGIN CERTIFICATE-----\n",
            latin,
        ] {
            assert_eq!(like(content), None, "{:?}", String::from_utf8_lossy(content));
        }
        // What comes after the beginning is not looked at.
        let late = [vec![b'x'; HEAD], vec![0]].concat();
        assert_eq!((like(&late), like(&late[1..])), (None, Some("a binary file")));
    }
}
