/** What the first start prints, once: the admin key, and three commands that work as pasted into any POSIX shell. */
export const welcome = ({ url, adminKey }: { url: string; adminKey: string }): string => `
  Countersign listens on ${url}

  Your admin key, shown this once:   ${adminKey}

  1. Create a tenant, a source with its key, and an endpoint:

export RELAY=${url} ADMIN=${adminKey}
make() { curl -fsS "$RELAY/v1/tenants$1" -H "authorization: Bearer $ADMIN" -H 'content-type: application/json' -d "$2"; }
pick() { sed -E "s/.*\\"$1\\":\\"([^\\"]*)\\".*/\\1/"; }
TENANT=$(make '' '{"name":"Acme","tier":"operation"}' | pick id)
SOURCE=$(make "/$TENANT/sources" '{"name":"orders"}' | pick id)
KEY=$(make "/$TENANT/api-keys" "{\\"name\\":\\"vendor\\",\\"role\\":\\"ingest\\",\\"source\\":\\"$SOURCE\\"}" | pick key)
make "/$TENANT/endpoints" '{"url":"http://127.0.0.1:9000/"}'; echo

  2. Post a payload and keep the receipt:

echo '{"order":4711,"total":99.90}' > payload.json
curl -fsS "$RELAY/v1/sources/$SOURCE/messages" -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d @payload.json | tee receipt.json; echo

  3. Verify it, offline but for the keys:

npx countersign verify receipt.json payload.json --jwks $RELAY/.well-known/jwks.json --vkey $RELAY/log/vkey

  To see the delivery arrive, run this in another terminal before or after 2:

npx countersign receive --port 9000 --jwks ${url}/.well-known/jwks.json

`
