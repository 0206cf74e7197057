alias Leash.Test.{Decoys, Matrix, Needs, Suite}

Suite.enter()

excluded = Needs.missing()
for {tag, reason} <- excluded, do: IO.puts("Left out: tests that need #{tag}: #{reason}")
IO.puts("Processes are counted by #{Suite.describe()}.")

ExUnit.start(capture_log: true, exclude: for({tag, _reason} <- excluded, do: {:needs, tag}))

ExUnit.after_suite(fn _result ->
  if summary = Matrix.summary(), do: IO.puts(summary)
  Decoys.stop()
  Suite.check!()
end)
