// The AI SDK of Vercel, for servers like OpenAI's.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const provider = createOpenAICompatible({ name: "here",
  baseURL: process.argv[2], apiKey: "none" });
const options = { prompt: "abc", seed: 7, maxOutputTokens: 20, temperature: 1 };
const whole = await generateText({ model: provider.chatModel("letters"),
  ...options });
let streamed = "";
const { textStream } = streamText({ model: provider.chatModel("letters"),
  ...options });
for await (const part of textStream) streamed += part;
console.log(JSON.stringify({ texts: [whole.text, streamed] }));
