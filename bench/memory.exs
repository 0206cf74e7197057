defmodule Bench.Memory do
  # What one supervisor of an idle worker takes, beside two others that do part of its work.
  @moduledoc false

  alias Bench.Stats

  @many 20

  def rows do
    shim = measure(Leash.Shim.path(), &["--run-id=b3nc400", "--worker=#{&1}", "--leash=0", "--"])

    others =
      for {name, args} <- [{"tini", ["-s", "--"]}, {"dumb-init", []}] do
        case System.find_executable(name) do
          nil -> {name, "#{name} is not installed"}
          path -> {name, measure(path, fn _number -> args end)}
        end
      end

    for {field, aim} <- [{"Rss", "—"}, {"Pss", "—"}, {"Private_Dirty", "≤ 24 kB"}] do
      %{
        what: "memory of an idle shim, #{label(field)}",
        ours: "#{shim[field]} kB",
        beside: Enum.map_join(others, ", ", &beside(&1, field)),
        ratio: "—",
        aim: aim
      }
    end
  end

  defp label("Private_Dirty"), do: "private dirty"
  defp label(field), do: String.upcase(field)

  defp beside({_name, why}, _field) when is_binary(why), do: why
  defp beside({name, values}, field), do: "`#{name}` #{values[field]} kB"

  # The median of some of them, side by side, as they share their pages.
  defp measure(program, args) do
    ports =
      for number <- 1..@many do
        Port.open({:spawn_executable, program}, [
          :binary,
          :exit_status,
          args: args.(number) ++ ["sleep", "60"]
        ])
      end

    Process.sleep(300)
    rollups = for port <- ports, do: rollup(Port.info(port, :os_pid))
    Enum.each(ports, &finish/1)

    Map.new(
      ["Rss", "Pss", "Private_Dirty"],
      &{&1, Stats.median(Enum.map(rollups, fn r -> r[&1] end))}
    )
  end

  defp rollup({:os_pid, pid}) do
    for [_all, field, kb] <-
          Regex.scan(~r/^(\w+): +(\d+) kB$/m, File.read!("/proc/#{pid}/smaps_rollup")),
        into: %{},
        do: {field, String.to_integer(kb)}
  end

  # Only the shim sees its port close: the others are told.
  defp finish(port) do
    {:os_pid, pid} = Port.info(port, :os_pid)
    System.cmd("kill", ["-TERM", "#{pid}"])

    receive do
      {^port, {:exit_status, _status}} -> :ok
    after
      5_000 -> raise "#{pid} did not end"
    end
  end
end
