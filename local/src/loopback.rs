//! `localhost` is 127.0.0.1 to some programs and ::1 to others: both are listened on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::{TcpListener, TcpStream};

pub const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Listens on 127.0.0.1, and passes on to it what comes to ::1, where that can be had.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((HOST, port)).await?;
    let port = listener.local_addr()?.port();
    // A machine without IPv6 has no ::1, and another program may have the port there: then 127.0.0.1 is all there is.
    if let Ok(other) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        tokio::spawn(forward(other, port));
    }
    Ok(listener)
}

async fn forward(from: TcpListener, port: u16) {
    while let Ok((mut caller, _)) = from.accept().await {
        tokio::spawn(async move {
            let mut service = TcpStream::connect((HOST, port)).await?;
            caller.set_nodelay(true)?;
            service.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut caller, &mut service).await
        });
    }
}
