// Opens a page in headless Chromium, desktop and phone, light and dark; prints as JSON what it found.
// BROWSER_MODULES=DIR node look.mjs PAGE.html FOLDER, where npm installed package.json in DIR.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import path from "node:path";

const [page_file, folder] = process.argv.slice(2);
const require = createRequire(path.join(process.env.BROWSER_MODULES ?? import.meta.dirname, "x.js"));
const load = async (name) => (await import(pathToFileURL(require.resolve(name)))).default;
const chromium = await load("@sparticuz/chromium");
const puppeteer = await load("puppeteer-core");

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? (await chromium.executablePath()),
  args: [...chromium.args, "--no-sandbox"],
  headless: "shell",
});
const found = [];
for (const [width, height] of [[1280, 900], [390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    const page = await browser.newPage();
    const problems = [], requests = [];
    page.on("console", (said) => problems.push(said.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    await page.setRequestInterception(true);
    page.on("request", (request) => {
      const url = request.url();
      if (!/^(file|data):/.test(url) || (url.startsWith("file:") && !request.isNavigationRequest())) {
        requests.push(url);
        return request.abort();
      }
      return request.continue();
    });
    await page.setViewport({ width, height });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(pathToFileURL(path.resolve(page_file)).href);
    const screenshot = path.join(folder, `${width}-${scheme}.png`);
    await page.screenshot({ path: screenshot, fullPage: true });
    found.push({
      width, scheme, screenshot, problems, requests,
      ...(await page.evaluate(() => ({
        text: document.body.innerText,
        across: document.documentElement.scrollWidth,
        background: getComputedStyle(document.body).backgroundColor,
        broken: [...document.images].filter((image) => !image.naturalWidth).length,
        images: document.images.length,
      }))),
    });
    await page.close();
  }
}
await browser.close();
console.log(JSON.stringify(found));
