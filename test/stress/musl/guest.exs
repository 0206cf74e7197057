# A VM for trial.py. It reports where it is and waits to be let on: `at NAME` on stdout, a line on
# stdin. `uses` goes through the calls of a program with Leash, `hold` holds a worker, and `idle`
# only starts the application.

at = fn name ->
  IO.puts("at #{name}")
  IO.gets("")
end

{:ok, _apps} = Application.ensure_all_started(:leash)
IO.puts("run #{Leash.run_id()}")

case System.argv() do
  ["idle"] ->
    at.("up")

  ["hold", script] ->
    Process.flag(:trap_exit, true)
    {:ok, _worker} = Leash.Worker.start_link(command: "/bin/sh", args: ["-c", script])
    at.("up")

  ["uses", script] ->
    "musl" =
      :erlang.system_info(:system_architecture) |> to_string() |> String.split("-") |> List.last()

    capabilities = Leash.capabilities()
    IO.puts(inspect(capabilities, width: 150))
    %{identity: true, mark: true, pidfd: true, proc: true, environ: true} = capabilities
    %{record: :ok, control: :ok, warden: :ok} = capabilities

    {:ok, worker} = Leash.Worker.start_link(command: "/bin/sh", args: ["-c", script])
    at.("worker")
    {:ok, %Leash.Exit{cause: :stop, signal: :sigterm}} = Leash.Worker.stop(worker)
    at.("stopped")

    {"out\nerr\n", 3} =
      Leash.cmd("sh", ["-c", "echo out; echo err >&2; exit 3"], stderr_to_stdout: true)

    {"x\n", :timeout} = Leash.cmd("sh", ["-c", "setsid sleep 86403 & echo x; wait"], timeout: 500)

    :enoent =
      try do
        Leash.cmd("/nonesuch", [])
      rescue
        error in ErlangError -> error.original
      end

    # An error of the native side has to come as an exception: the unwinder is another one here.
    :argument =
      try do
        Leash.Native.fd_read(:none, 1)
      rescue
        ArgumentError -> :argument
      end

    "a\nb\n" = Leash.stream!("sort", [], input: ["b\n", "a\n"]) |> Enum.join()
    big = :binary.copy("0123456789abcdef", 65_536)
    back = Leash.stream!("cat", [], input: List.duplicate(big, 32)) |> Enum.join()
    true = back == :binary.copy(big, 32)

    port = Leash.open_port("cat", [], [:binary, packet: 4])
    Port.command(port, big)
    ^big = receive(do: ({^port, {:data, data}} -> data), after: (10_000 -> :nothing))
    Port.close(port)
    port = Leash.open_port("sh", ["-c", "sleep 86404 & exit 7"], [:binary, :exit_status])
    {:exit_status, 7} = receive(do: ({^port, message} -> message), after: (10_000 -> :nothing))

    guest = self()

    options = [
      command: "cat",
      stdin: :pipe,
      on_output: fn _stream, text -> send(guest, {:output, text}) end
    ]

    {:ok, worker} = Leash.Worker.start_link(options)
    :ok = Leash.Worker.write(worker, "ping")
    "ping" = receive(do: ({:output, text} -> text), after: (10_000 -> :nothing))
    at.("used")
end

System.stop()
