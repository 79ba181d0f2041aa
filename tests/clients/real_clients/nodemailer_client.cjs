// Sends mail with nodemailer: pooled over STARTTLS, and over implicit TLS, each with a login.
const fs = require("node:fs");
const nodemailer = require("nodemailer");

const [port, tlsPort, ca, user, pass] = process.argv.slice(2);
const common = { host: "127.0.0.1", auth: { user, pass }, tls: { ca: fs.readFileSync(ca) } };
const mail = (subject) => ({
  from: "Shop <shop@example.com>",
  to: "ada@example.org",
  subject,
  text: "Grüße\n.a line with a dot\n",
  html: "<p>Grüße</p>",
  attachments: [{ filename: "note.txt", content: "a note" }],
});

async function main() {
  const pooled = nodemailer.createTransport({ ...common, port, requireTLS: true, pool: true, maxConnections: 2 });
  const sent = await Promise.all([0, 1, 2, 3].map((n) => pooled.sendMail(mail(`nodemailer sends ${n}`))));
  pooled.close();
  for (const { response } of sent) {
    if (!response.startsWith("250 2.0.0 queued as ")) throw new Error(response);
  }
  const implicit = nodemailer.createTransport({ ...common, port: tlsPort, secure: true, authMethod: "LOGIN" });
  await implicit.sendMail(mail("nodemailer over tls"));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
