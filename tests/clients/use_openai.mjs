// OpenAI's client for JavaScript.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none" });
const options = { model: "letters", seed: 7, max_tokens: 20, temperature: 1 };
const messages = [{ role: "user", content: "abc" }];
const whole = await client.completions.create({ prompt: "abc", ...options });
const stream = await client.completions.create({ prompt: "abc", stream: true,
  ...options });
let streamed = "";
for await (const chunk of stream) streamed += chunk.choices[0].text;
const chat = await client.chat.completions.create({ messages, ...options });
const chunks = await client.chat.completions.create({ messages, stream: true,
  ...options });
let chatted = "";
for await (const chunk of chunks) chatted += chunk.choices[0].delta.content;
console.log(JSON.stringify({ texts: [whole.choices[0].text, streamed,
  chat.choices[0].message.content, chatted] }));
