//! Listens on 127.0.0.1 and on ::1, because programs differ in which of them `localhost` is.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::{TcpListener, TcpStream};

pub const HOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Listens on 127.0.0.1, and forwards connections from ::1 to it if that is possible.
pub async fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((HOST, port)).await?;
    let port = listener.local_addr()?.port();
    // A machine without IPv6 has no ::1, and another program may use the port there. Then 127.0.0.1 must do.
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
