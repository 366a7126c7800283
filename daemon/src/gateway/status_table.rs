//! What `minivpn status` prints for people: a table that fits a terminal.
