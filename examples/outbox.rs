//! A mail in the application's own transaction: it is sent exactly if the order is committed.
//!
//! `cargo run --example outbox -- postgres://shop@localhost/app`, with a table
//! `orders (id int, customer text)` and, once, `SELECT postrider.admit('shop')`.

use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("give the database's URL")?;
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);

    let transaction = client.transaction().await?;
    let order = "INSERT INTO orders (id, customer) VALUES ($1, $2)";
    transaction
        .execute(order, &[&42, &"ada@example.org"])
        .await?;

    let mail = r#"{"from": "Shop <shop@example.com>", "to": "ada@example.org",
        "subject": "Your order 42",
        "text": "Thank you.", "idempotency_key": "order-42"}"#;
    let enqueue = "SELECT postrider.enqueue($1::text::jsonb)::text";
    let id: String = transaction.query_one(enqueue, &[&mail]).await?.get(0);
    transaction.commit().await?;

    println!("mail {id} is on its way");
    Ok(())
}
