//! The commands' end of the control socket: one request, one answer, and what to do when nobody is there.
