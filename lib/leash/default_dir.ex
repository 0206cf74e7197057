defmodule Leash.DefaultDir do
  # The run directory where none is named: `/tmp/leash-<uid>`.
  #
  # Any user can make a directory of that name in /tmp. So where what stands there is not ours, another one is taken, and
  # found again by every later start and by the command (native/cli/src/place.rs): in this order
  #
  #     leash-<uid>      where it is a directory of ours, whatever its mode
  #     leash-<uid>.*    the first one that is a directory of ours with mode 0700
  #     leash-<uid>      where there is nothing
  #     leash-<uid>.<n>  the first of a few that is not there
  #     leash-<uid>.<random>
  #
  # Names alone are chosen here. What opens the directory makes it with mode 0700 and judges what it has opened.
  @moduledoc false

  import Bitwise

  @numbered 1..8

  @doc "The path below a directory such as `/tmp`, for a user's number. Nothing is made."
  @spec path(String.t(), non_neg_integer()) :: String.t()
  def path(parent, uid) do
    name = "leash-#{uid}"
    first = Path.join(parent, name)

    case File.lstat(first) do
      {:ok, %{type: :directory, uid: ^uid}} ->
        first

      {:error, :enoent} ->
        taken(parent, name, uid) || first

      {:error, _unreadable} ->
        first

      {:ok, _not_ours} ->
        taken(parent, name, uid) || free(first) || first <> "." <> Leash.RunId.generate()
    end
  end

  defp taken(parent, name, uid) do
    with {:ok, names} <- File.ls(parent) do
      names
      |> Enum.filter(&String.starts_with?(&1, name <> "."))
      |> Enum.sort()
      |> Enum.map(&Path.join(parent, &1))
      |> Enum.find(&private?(&1, uid))
    else
      {:error, _reason} -> nil
    end
  end

  defp private?(path, uid) do
    case File.lstat(path) do
      {:ok, %{type: :directory, uid: ^uid, mode: mode}} -> (mode &&& 0o077) == 0
      _other -> false
    end
  end

  # Two starts at once have to take the same one.
  defp free(first) do
    paths = for n <- @numbered, do: "#{first}.#{n}"
    Enum.find(paths, &(File.lstat(&1) == {:error, :enoent}))
  end
end
