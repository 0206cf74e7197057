defmodule Leash.Usage do
  # The processes and the usage of this run's trees, in one pass over `/proc` for all of them.
  @moduledoc false

  alias Leash.{Native, Registry, Run}

  # A command line costs as much as the rest of a process together. With more processes than this,
  # their names must do.
  @commands 500

  @typedoc "A process of a tree; see `t:Leash.Tree.member/0`."
  @type member :: Leash.Tree.member()

  @typedoc "The usage of a tree."
  @type sums :: %{
          processes: non_neg_integer(),
          rss: non_neg_integer(),
          cpu: non_neg_integer()
        }

  @typedoc "The native side's tuple: worker, pid, parent, state, command, rss, cpu, age."
  @type counted ::
          {pos_integer(), pos_integer(), pos_integer() | nil, String.t(), String.t(),
           non_neg_integer(), non_neg_integer(), non_neg_integer()}

  @doc "Returns the processes by worker's number, or `:error` if `/proc` cannot be read."
  @spec members([Registry.row()]) :: {:ok, %{pos_integer() => [member()]}} | :error
  def members(rows) do
    with {:ok, counted} <- count(rows, @commands) do
      {:ok, Enum.group_by(counted, &elem(&1, 0), &member/1)}
    end
  end

  @doc "Returns the sums by worker's number. A worker without processes is not in it."
  @spec sums([Registry.row()]) :: {:ok, %{pos_integer() => sums()}} | :error
  def sums(rows) do
    with {:ok, counted} <- count(rows, 0), do: {:ok, Enum.reduce(counted, %{}, &add/2)}
  end

  @doc "Returns the sums of one tree."
  @spec sum([member()]) :: sums()
  def sum(members) do
    Enum.reduce(members, none(), fn member, sums ->
      %{
        processes: sums.processes + 1,
        rss: sums.rss + member.rss,
        cpu: sums.cpu + member.cpu
      }
    end)
  end

  @doc "Returns the sums of a tree without processes."
  @spec none() :: sums()
  def none, do: %{processes: 0, rss: 0, cpu: 0}

  @doc """
  Returns all processes as the native side counts them.

  Command lines are read if there are at most `commands` processes.
  """
  @spec count([Registry.row()], non_neg_integer()) :: {:ok, [counted()]} | :error
  def count([], _commands), do: {:ok, []}

  def count(rows, commands) do
    workers = for row <- rows, do: {row.number, shim(row)}

    with {:ok, run} <- Run.fetch(),
         {:ok, counted} <- Native.census(run.id, workers, commands) do
      {:ok, counted}
    else
      _no_run_or_no_proc -> :error
    end
  end

  # An adopted tree keeps the run and the number of its start, which its shim's mark contains.
  defp shim(%{outlives: %{shim_pid: shim}}), do: shim
  defp shim(row), do: row.shim

  defp add({number, _pid, _parent, _state, _command, rss, cpu, _age}, sums) do
    case sums do
      %{^number => sum} ->
        %{
          sums
          | number => %{processes: sum.processes + 1, rss: sum.rss + rss, cpu: sum.cpu + cpu}
        }

      _first ->
        Map.put(sums, number, %{processes: 1, rss: rss, cpu: cpu})
    end
  end

  defp member({_number, pid, parent, state, command, rss, cpu, age}) do
    %{
      os_pid: pid,
      parent: parent,
      state: state,
      command: command,
      rss: rss,
      cpu: cpu,
      age: age
    }
  end
end
