alias Leash.Test.{Decoys, Matrix, Needs, Suite}

Suite.enter()

# The suite keeps records of its own, beside those of the VMs that it starts.
File.mkdir_p!(Decoys.run_dir())
File.chmod!(Decoys.run_dir(), 0o700)
level = Logger.level()
Logger.configure(level: :none)
:ok = Application.stop(:leash)
Application.put_env(:leash, :run_dir, Decoys.run_dir())
:ok = Application.start(:leash)
Logger.configure(level: level)

missing = Needs.missing()
for {need, reason} <- missing, do: IO.puts("Left out: tests that need #{need}: #{reason}")
IO.puts("Processes are counted by #{Suite.describe()}.")

ExUnit.start(capture_log: true, exclude: for({need, _reason} <- missing, do: {:needs, need}))

ExUnit.after_suite(fn _result ->
  if summary = Matrix.summary(), do: IO.puts(summary)
  Decoys.stop()
  Suite.check!()
end)
