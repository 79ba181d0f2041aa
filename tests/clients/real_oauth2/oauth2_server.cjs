// oauth2-mock-server, as strict as the servers of the large providers: it knows one client, one scope
// and one refresh token, which is another one after each use. Prints its address.
//
// oauth2_server.cjs REFRESH_TOKEN
const { OAuth2Server } = require('oauth2-mock-server');

let refreshToken = process.argv[2];

function mistake({ client_id, client_secret, scope, grant_type, refresh_token }) {
  if (client_id !== 'postrider') return [400, 'unauthorized_client', 'the client is not known'];
  if (client_secret !== 'hush') return [401, 'invalid_client', 'the secret is wrong'];
  if (scope !== undefined && scope !== 'mail') return [400, 'invalid_scope', 'there is no such scope'];
  if (grant_type === 'refresh_token' && refresh_token !== refreshToken) {
    return [400, 'invalid_grant', 'the token has expired'];
  }
  return undefined;
}

async function main() {
  const server = new OAuth2Server();
  await server.issuer.keys.generate('RS256');
  let issued = 0;
  server.service.on('beforeTokenSigning', (token) => {
    issued += 1;
    token.payload.jti = String(issued);
  });
  server.service.on('beforeResponse', (answer, request) => {
    const found = mistake(request.body);
    if (found) {
      const [status, error, error_description] = found;
      answer.statusCode = status;
      answer.body = { error, error_description };
    } else if (request.body.grant_type === 'refresh_token') {
      refreshToken = answer.body.refresh_token;
    }
  });
  await server.start(0, '127.0.0.1');
  console.log(`http://127.0.0.1:${server.address().port}`);
}

main();
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
