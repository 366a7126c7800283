//! Known datagrams for tests: the static key and the packets of OpenVPN's own unit tests.

use crate::wrap::static_key::StaticKey;

/// The bytes of a hexadecimal text; white space is ignored.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "whole bytes");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The static key of the packets below.
pub(crate) fn static_key() -> StaticKey {
    StaticKey::from_slice(&hex("37268ea8f95d7f71f9fb8fc03770c460 daf714a483d815c013ce0a537efc18f2
         8f4f172669d9e6a413bac6741d8ea054 00f49b7fd6326470f23798c606bf53d4
         de63ebc64ec59d57ce5d04d5b62e68b5 3ca6e5354351097fa370446c4d269f18
         7bb6ae54af2dc70ff7317fe2f8754b82 82aad4202f9fa42c8640245d883e2c54
         a0c1c489a036cf3a8964d8d289c1583b 9447c262b1da5fd167a5d27bd5ac5143
         17bc2343a31a2efc38dd920d910375f5 1c2e27f3afd36c49269da079f7ce466e
         bb0f9ad13e9bbb4665974e6bc24b513c 5700393bf4a3e7f967e2f384069ac8a8
         e78b18b15604993fd16515cce9c0f3e4 2b4126b999005ade802797b0eeb8b9e6"))
    .expect("256 bytes")
}

/// A client's reset under tls-auth with SHA1, key-direction 1.
pub(crate) const TLS_AUTH_RESET: &str =
    "38de694c5c7bfba27493537c1ded4e781529ae7cfe4b8c6d6b2b51f05a0000000161d3bf6c0000000000";

/// A client's reset under tls-crypt.
pub(crate) const TLS_CRYPT_RESET: &str =
    "38f419cb12d1f9e48f0000000161d3f8e1330206f56802be44fbed905064e3db43416bec5e526719462b7eb90c96defc9b05c44879f7";

/// A client's CONTROL_V1 with a ClientHello under tls-auth with SHA1, key-direction 1; it acknowledges
/// nothing, so it proves no cookie.
pub(crate) const TLS_AUTH_CONTROL: &str = "
2014014ebc80c6142b7bc876fbc52e27b1c507355bb6006bae71ba4e380000000361d3ff530000000001160301010c0100010803038caaac3a1a07bde7b75006
9b940c344b5a35cac479bdc909b07bd9eebb7de725203938e2183336149f34f04459968d0ed24776648859e9380397969845fbf5ff230032130213031301c02c
c030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c013003300ff0100008d000b000403000102000a000c000a001d0017
001e001900180016000000170000000d0030002e040305030603080708080809080a080b08040805080604010501060103030203030102010302020204020502
0602002b00050403040303002d00020101003300260024001d00200ec97aff58db56f640d1eddb9181d6ef83868ab23d88923fd8519cd62656336b";
