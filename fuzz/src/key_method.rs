//! The key message of either side. What is taken off the front is no longer than what is there, and encoded again it is
//! understood the same way.

use controlplane::controlchannel::key_method::{ClientKeyMethod, ServerKeyMethod};

/// Runs one input: plaintext of the TLS session.
pub fn run(data: &[u8]) {
    if let Ok(Some((message, len))) = ClientKeyMethod::decode(data) {
        assert!(len <= data.len());
        client(&message);
    }
    if let Ok(Some((message, len))) = ServerKeyMethod::decode(data) {
        assert!(len <= data.len());
        server(&message);
    }
}

fn client(message: &ClientKeyMethod) {
    // What is longer than we would send is understood, but not sent.
    let Ok(bytes) = message.encode() else {
        return;
    };
    let Ok(Some((again, len))) = ClientKeyMethod::decode(&bytes) else {
        panic!("what we send is not understood: {message:?}");
    };
    assert_eq!(len, bytes.len());
    assert_eq!(again.source.pre_master, message.source.pre_master);
    assert_eq!(again.source.random1, message.source.random1);
    assert_eq!(again.source.random2, message.source.random2);
    assert_eq!(
        (&again.options, &again.username, &again.password, &again.peer_info),
        (&message.options, &message.username, &message.password, &message.peer_info)
    );
}

fn server(message: &ServerKeyMethod) {
    let Ok(bytes) = message.encode() else {
        return;
    };
    // A string that was not UTF-8 grows when it is repaired, perhaps beyond what may be read.
    let Ok(Some((again, len))) = ServerKeyMethod::decode(&bytes) else {
        return assert!(message.options.len() + 1 >= 0x2000, "what we send is not understood: {message:?}");
    };
    assert_eq!(len, bytes.len());
    assert_eq!(again.source.random1, message.source.random1);
    assert_eq!(again.source.random2, message.source.random2);
    assert_eq!(again.options, message.options);
}
