"""The page while a run goes on, which ends when a line comes in: url, folder for pictures (or empty)."""

url, pictures = sys.argv[1:3]
browser = Browser()
try:
    browser.go(url)
    browser.until("document.querySelector('.run progress[value]')", "a stage with its progress")
    told = browser.js("return document.querySelector('.run').innerText")
    check("slow is running: 1 of 3 stages" in told, told)
    for part in ("trace", "done", "3,000 rows", "sim", "runs", " of 5,000 ", "after", "waits"):
        check(part in told, f"{part} in {told}")
    first = browser.js("return document.querySelector('.run progress').value")
    browser.until(f"document.querySelector('.run progress').value > {first}", "it gets on")
    if pictures:
        browser.picture(f"{pictures}/live.png")
    print("seen", flush=True)
    sys.stdin.readline()
    browser.until("document.querySelector('#live').hidden", "the run is over")
    browser.until("document.querySelector('.pipeline')", "its tables appear")
    check(not browser.errors(), "the page complains")
finally:
    browser.quit()
done()
