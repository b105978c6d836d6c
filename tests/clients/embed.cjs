// Asks the gateway at argv[2] for vectors of argv[3], and prints them.
const OpenAI = require("openai");

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0 });
client.embeddings
  .create({ model: "m", input: JSON.parse(process.argv[3]) })
  .then((answer) => console.log(JSON.stringify(answer.data.map((item) => item.embedding))));
