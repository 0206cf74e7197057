defmodule Bench.Peers do
  # What others measure up to, each in the shape that its documentation recommends; built by bench/peers/build.
  #
  # A contestant has the functions `read`, `cat` and `start`, or nil for what it cannot do: bytes of a program's
  # stdout, bytes that went through cat, and the status of a program that only ends.
  @moduledoc false

  @peers ~w(exile ex_cmd muontrap erlexec)a
  @compile {:no_warn_undefined, [Exile, ExCmd, MuonTrap, :exec]}

  # The largest message of erlexec's {packet, 2}, with room for its header.
  @erlexec_bytes 32_768

  @doc "Starts what is built in the directory of `LEASH_BENCH_PEERS` and returns its `ebin` directories."
  def load do
    for name <- @peers, ebin = ebin(name), File.dir?(ebin) do
      true = :code.add_pathz(String.to_charlist(ebin))
      configure(name)
      {:ok, _apps} = Application.ensure_all_started(name)
      String.to_charlist(ebin)
    end
  end

  @doc "All of them: `{label, contestant}`, or `{label, :not_built}`."
  def all do
    for name <- @peers do
      ebin = ebin(name)

      if ebin != nil and File.dir?(ebin),
        do: {label(name, version(ebin)), contestant(name)},
        else: {label(name, nil), :not_built}
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
  defp label(text, nil), do: text
  defp label(text, version), do: "#{text} #{String.trim(version)}"

  # As root it refuses to run anything unless told that this is meant.
  defp configure(:erlexec) do
    if Leash.Native.euid() == 0 do
      for {key, value} <- [root: true, user: ~c"root", limit_users: [~c"root"]],
          do: Application.put_env(:erlexec, key, value)
    end

    if System.get_env("SHELL") in [nil, ""], do: System.put_env("SHELL", "/bin/sh")
  end

  # From Elixir 1.15 on Mix takes what the project does not use off the code path.
  defp configure(:exile) do
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
      start: fn program -> {"", 0} = MuonTrap.cmd(program, []) end
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
      end
    }
  end

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
