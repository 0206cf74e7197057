defmodule Bench.Peers do
  # The contestants that Leash is measured against, each in the shape that its documentation
  # recommends. bench/peers/build builds them.
  #
  # A contestant has the functions `read`, `cat` and `start`, or nil for what it cannot do. They
  # return the bytes of a program's stdout, the bytes that went through cat, and the status of a
  # program that only ends.
  #
  # Contestants that supervise have more. `daemon` starts a program for the calling process, which
  # learns only that the start was requested. `stop` ends it by the library's own means and
  # returns when the library reports the end. `leftover`, if there is one, is the process that
  # stays. `grace` is the time in ms between SIGTERM and SIGKILL that `daemon` was given.
  # `supervisor` is the program that stands beside each worker.
  @moduledoc false

  @peers ~w(forcola muontrap erlexec net_runner exile ex_cmd)a
  @compile {:no_warn_undefined,
            [Exile, ExCmd, MuonTrap, MuonTrap.Daemon, :exec] ++
              [Forcola, Forcola.Daemon, NetRunner, NetRunner.Daemon]}

  @grace 200

  # The largest message of erlexec's {packet, 2}, with room for its header.
  @erlexec_bytes 32_768

  @doc """
  Starts the libraries built in the directory of `LEASH_BENCH_PEERS` and returns their `ebin`
  directories.
  """
  def load do
    for name <- @peers, ebin = ebin(name), File.dir?(ebin) do
      true = :code.add_pathz(String.to_charlist(ebin))
      configure(name)
      {:ok, _apps} = Application.ensure_all_started(name)
      String.to_charlist(ebin)
    end
  end

  @doc "Returns all of them: `{label, contestant}`, or `{label, :not_built}`."
  def all do
    for name <- @peers do
      ebin = ebin(name)

      if ebin != nil and File.dir?(ebin),
        do: {label(name, version(ebin)), contestant(name)},
        else: {label(name, nil), :not_built}
    end
  end

  @doc "Returns the columns of the table: `{name, label, contestant | :not_built}`."
  def columns, do: Enum.zip_with(@peers, all(), fn name, {label, it} -> {name, label, it} end)

  @doc "Returns the reason why this contestant has no figure."
  def why_not(name) do
    with dir when dir not in [nil, ""] <- System.get_env("LEASH_BENCH_PEERS"),
         {:ok, why} <- File.read(Path.join(dir, "#{name}.why")) do
      String.trim(why)
    else
      _nobody_tried -> "not built, see bench/peers/build"
    end
  end

  defp ebin(name) do
    with dir when dir not in [nil, ""] <- System.get_env("LEASH_BENCH_PEERS"),
         do: Path.join([Path.expand(dir), "#{name}", "ebin"]),
         else: (_unset -> nil)
  end

  defp version(ebin), do: ebin |> Path.dirname() |> Path.join("VERSION") |> File.read!()

  defp label(:exile, version), do: label("`Exile.stream!`", version)
  defp label(:ex_cmd, version), do: label("`ExCmd.stream!`", version)
  defp label(:muontrap, version), do: label("`MuonTrap.cmd`", version)
  defp label(:erlexec, version), do: label("erlexec `:exec.run`", version)
  defp label(:forcola, version), do: label("`Forcola.run`", version)
  defp label(:net_runner, version), do: label("`NetRunner.run`", version)
  defp label(text, nil), do: text
  defp label(text, version), do: "#{text} #{String.trim(version)}"

  # As root, erlexec runs nothing unless an option allows it.
  defp configure(:erlexec) do
    if Leash.Native.euid() == 0 do
      for {key, value} <- [root: true, user: ~c"root", limit_users: [~c"root"]],
          do: Application.put_env(:erlexec, key, value)
    end

    if System.get_env("SHELL") in [nil, ""], do: System.put_env("SHELL", "/bin/sh")
  end

  # It needs a module of OTP 27.
  defp configure(:forcola) do
    if not Code.ensure_loaded?(:json), do: Code.require_file("json.exs", __DIR__)
  end

  # From Elixir 1.15 on, Mix takes modules that the project does not use off the code path.
  defp configure(name) when name in [:exile, :net_runner] do
    if function_exported?(Mix, :ensure_application!, 1),
      do: apply(Mix, :ensure_application!, [:crypto])
  end

  defp configure(_name), do: :ok

  defp contestant(:exile) do
    %{
      read: fn program, args -> bytes(Exile.stream!([program | args])) end,
      cat: fn cat, input -> bytes(Exile.stream!([cat], input: input)) end,
      start: fn program -> Stream.run(Exile.stream!([program])) end
    }
  end

  defp contestant(:ex_cmd) do
    %{
      read: fn program, args -> bytes(ExCmd.stream!([program | args])) end,
      cat: fn cat, input -> bytes(ExCmd.stream!([cat], input: input)) end,
      start: fn program -> Stream.run(ExCmd.stream!([program])) end
    }
  end

  defp contestant(:muontrap) do
    %{
      read: fn program, args ->
        {bytes, 0} = MuonTrap.cmd(program, args, into: %Bench.Count{})
        bytes
      end,
      cat: nil,
      start: fn program -> {"", 0} = MuonTrap.cmd(program, []) end,
      daemon: fn {program, args} ->
        {:ok, pid} = MuonTrap.Daemon.start_link(program, args, delay_to_sigkill: @grace)
        pid
      end,
      stop: &GenServer.stop(&1, :normal, :infinity),
      grace: @grace,
      supervisor: priv(:muontrap, "muontrap")
    }
  end

  defp contestant(:erlexec) do
    %{
      read: fn program, args ->
        {:ok, _pid, os_pid} = :exec.run([program | args], [{:stdout, self()}, :monitor])
        count_erlexec(os_pid, 0)
      end,
      cat: fn cat, input ->
        {:ok, _pid, os_pid} = :exec.run([cat], [:stdin, {:stdout, self()}, :monitor])
        spawn_link(fn -> feed_erlexec(os_pid, input) end)
        count_erlexec(os_pid, 0)
      end,
      start: fn program ->
        {:ok, _pid, os_pid} = :exec.run([program], [{:stdout, self()}, :monitor])
        0 = count_erlexec(os_pid, 0)
      end,
      # Its grace is in seconds.
      daemon: fn {program, args} ->
        {:ok, _pid, os_pid} = :exec.run([program | args], [:monitor, kill_timeout: 1])
        os_pid
      end,
      stop: fn os_pid ->
        :ok = :exec.stop(os_pid)
        receive do: ({:DOWN, ^os_pid, :process, _pid, _why} -> :ok)
      end,
      grace: 1_000,
      # One program for all workers.
      supervisor: nil
    }
  end

  defp contestant(:forcola) do
    %{
      # Keeps all output: it can count output as it comes only by lines.
      read: nil,
      cat: nil,
      start: fn program -> {:ok, %{status: 0}} = Forcola.run([program], timeout_ms: 10_000) end,
      daemon: fn {program, args} ->
        options = [argv: [program | args], kill_grace_ms: @grace, output: fn _, _ -> :ok end]
        {:ok, pid} = Forcola.Daemon.start_link(options)
        pid
      end,
      stop: &GenServer.stop(&1, :normal, :infinity),
      grace: @grace,
      supervisor: priv(:forcola, "forcola_shim")
    }
  end

  defp contestant(:net_runner) do
    %{
      read: fn program, args -> bytes(NetRunner.stream!([program | args])) end,
      cat: fn cat, input -> bytes(NetRunner.stream!([cat], input: input)) end,
      start: fn program -> {"", 0} = NetRunner.run([program]) end,
      daemon: fn {program, args} ->
        {:ok, pid} = NetRunner.Daemon.start_link(cmd: program, args: args)
        pid
      end,
      stop: &GenServer.stop(&1, :normal, :infinity),
      # The grace cannot be chosen.
      grace: 5_000,
      # The program stays with all its descriptors after its daemon has stopped. The bench kills
      # it after the measurement.
      leftover: fn daemon -> :sys.get_state(daemon).proc end,
      supervisor: priv(:net_runner, "shepherd")
    }
  end

  defp priv(name, program), do: Path.join([Path.dirname(ebin(name)), "priv", program])

  defp bytes(stream), do: Enum.reduce(stream, 0, &(byte_size(&1) + &2))

  defp count_erlexec(os_pid, bytes) do
    receive do
      {:stdout, ^os_pid, data} -> count_erlexec(os_pid, bytes + byte_size(data))
      {:DOWN, ^os_pid, :process, _pid, :normal} -> bytes
    end
  end

  defp feed_erlexec(os_pid, input) do
    for block <- input, piece <- pieces(block), do: :ok = :exec.send(os_pid, piece)
    :ok = :exec.send(os_pid, :eof)
  end

  defp pieces(<<piece::binary-size(@erlexec_bytes), rest::binary>>) when rest != "",
    do: [piece | pieces(rest)]

  defp pieces(piece), do: [piece]
end
